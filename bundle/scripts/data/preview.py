# SPDX-License-Identifier: Apache-2.0
"""The command ``preview``: a self-contained page with an overlay of every case of a datalist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import InputError, first_line
from ..core.geometry import spacing_of
from ..io.formats import read_volume, stem
from ..visualization.html_report import Html, element, figure, picture, table, text, write_page
from .datalist import IGNORE_INDEX, SECTIONS, read_datalist
from .vertebra_table import FILE_NAME, rows_by_case, rows_of_entry

DPI = 80
MAX_SAMPLES = 20_000  # voxels of a case in the histogram


@dataclass(frozen=True)
class CaseSummary:
    """Facts about one case.

    Attributes:
        section: section of the datalist.
        spacing: voxel size in mm, as a string.
        values: sample of the voxel values.
        fracture_ml: fractured volume; None without a label.
    """

    section: str
    spacing: str
    values: np.ndarray
    fracture_ml: float | None


def _histograms(values: Sequence[np.ndarray], volumes: Sequence[float]) -> Html:
    from matplotlib.figure import Figure

    histograms = Figure(figsize=(10, 3), layout="constrained")
    left, right = histograms.subplots(1, 2)
    edges = np.linspace(-1100, 1900, 76)
    for sample in values:
        left.hist(np.clip(sample, edges[0], edges[-1]), edges, density=True, histtype="step", alpha=0.5, linewidth=0.8)
    left.set(xlabel="HU", ylabel="density (1/HU)", yscale="log", title="voxel values, one line per case")
    right.hist(list(volumes) or [0.0], bins=20, color="#5b7fa6")
    right.set(xlabel="ml", ylabel="cases", title="fractured volume per case with a fracture")
    return picture(histograms, dpi=DPI)


Rows = Mapping[str, dict[int, dict[str, str]]]


def _fractured_levels(rows: Mapping[int, Mapping[str, str]]) -> list[str]:
    """Level, grade and shape of every fractured vertebra of a case."""
    levels = []
    for row in rows.values():
        if row["fractured"] == "1":
            grading = " ".join(([f"grade {row['grade']}"] if row["grade"] else []) + [row["shape"]]).strip()
            levels.append(row["level"] + (f" ({grading})" if grading else ""))
    return levels


def _draw_case(case: Mapping[str, str], section: str, rows: Rows) -> tuple[Html, CaseSummary]:
    from ..visualization.overlay import draw_overlay

    image = read_volume(case["image"])
    volume = np.asarray(image.dataobj)
    mask = np.asarray(read_volume(case["label"]).dataobj) if case.get("label") else None
    spacing = spacing_of(image.affine)
    masks = {}
    if mask is not None:
        masks = {"reference": mask == 1}
        if (mask == IGNORE_INDEX).any():
            masks["ignored"] = mask == IGNORE_INDEX
    summary = CaseSummary(
        section=section,
        spacing=" x ".join(f"{s:.2f}" for s in spacing),
        values=np.asarray(volume.reshape(-1)[:: max(volume.size // MAX_SAMPLES, 1)], np.float32),
        fracture_ml=None if mask is None else float((mask == 1).sum() * np.prod(spacing) / 1000),
    )
    name, patient = stem(case["image"]), str(case.get("patient", ""))
    if summary.fracture_ml is None:
        content = "no label"
    elif summary.fracture_ml == 0:
        content = "no fracture"
    else:
        fractured = _fractured_levels(rows_of_entry(rows, case)) or ["fractured"]
        content = f"{', '.join(fractured)}, {summary.fracture_ml:.1f} ml"
    grid = f"{' x '.join(map(str, image.shape))}, {summary.spacing} mm"
    caption = element("b", name) + text(f" {section}, patient {patient or '-'}: {content} ")
    caption += element("span", grid, class_="muted")
    return figure(draw_overlay(volume, image.affine, masks), Html(caption), dpi=DPI), summary


def _section_row(section: str, cases: Sequence[Mapping], summaries: Sequence[CaseSummary]) -> tuple[object, ...]:
    """Number of cases and patients, share of cases with a fracture, median fractured volume, and spacings of a section."""
    labelled = [s.fracture_ml for s in summaries if s.fracture_ml is not None]
    volumes = [ml for ml in labelled if ml > 0]
    patients = {str(c.get("patient", c.get("image"))) for c in cases}
    share = f"{len(volumes)} of {len(labelled)}" if labelled else "-"
    median = f"{np.median(volumes):.1f} ml" if volumes else "-"
    spacings = sorted({s.spacing for s in summaries})
    listed = "; ".join(spacings[:3]) + (f"; {len(spacings) - 3} more" if len(spacings) > 3 else "")
    return section, len(cases), len(patients), share, median, listed or "-"


def preview(datalist: str, out: str = "report.html", limit: int = 200) -> str:
    """Write one self-contained page with a sagittal overlay of every case and the statistics of the set.

    Outlines show the label (value 1) and, dotted, ignored voxels (255). The slices pass through the label.

    Args:
        datalist: path of a datalist.json.
        out: HTML page to write.
        limit: maximum number of cases to show; the page states the number of the others.

    Returns:
        Path of the page.
    """
    source, sections = read_datalist(datalist, paths_only=False)
    if Path(out).resolve() == source.resolve():
        raise InputError(f"out={out!r}: is the datalist itself; choose a name that ends in .html")
    cases = [(section, case) for section, items in sections.items() for case in items]
    path = source.with_name(FILE_NAME)
    rows_of_cases = rows_by_case(path if path.is_file() else None)
    figures, failures, summaries = [], [], []
    for section, case in tqdm(cases[:limit], desc="drawing cases", unit="case"):
        try:
            drawing, summary = _draw_case(case, section, rows_of_cases)
        except Exception as error:
            failures.append(f"{case.get('image')}: {first_line(error)}")
            tqdm.write(f"skipped: {failures[-1]}")
            continue
        figures.append(drawing)
        summaries.append(summary)
    rows = [_section_row(s, sections[s], [c for c in summaries if c.section == s]) for s in SECTIONS]
    title = source.parent.name
    parts = [
        element("h1", title),
        element("p", str(source), class_="muted"),
        table(("section", "cases", "patients", "with a fracture", "median fractured volume", "spacing (mm)"), rows),
    ]
    if summaries:
        parts.append(_histograms([s.values for s in summaries], [s.fracture_ml for s in summaries if s.fracture_ml]))
    parts += [element("p", line, class_="error") for line in failures]
    if len(cases) > limit:
        parts.append(element("p", f"{len(cases) - limit} more cases are not shown (--limit {limit})."))
    write_page(out, title, [*parts, *figures])
    if failures:
        raise InputError(f"{len(failures)} of {min(len(cases), limit)} cases could not be drawn, see above; the page is {out}")
    return str(out)
