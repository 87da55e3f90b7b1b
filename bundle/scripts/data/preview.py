# SPDX-License-Identifier: Apache-2.0
"""One self-contained page that shows every case of a datalist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import InputError
from ..core.files import read_table
from ..io.formats import read_volume, stem
from ..visualization.html_report import Html, element, figure, picture, table, text, write_page
from .datalist import SECTIONS, read_datalist

DPI = 80


def _histograms(values: Sequence[np.ndarray], volumes: Sequence[float]) -> Html:
    from matplotlib.figure import Figure

    histograms = Figure(figsize=(10, 3), layout="constrained")
    left, right = histograms.subplots(1, 2)
    edges = np.linspace(-1100, 1900, 76)
    for sample in values:
        left.hist(np.clip(sample, edges[0], edges[-1]), edges, density=True, histtype="step", alpha=0.5, linewidth=0.8)
    left.set(xlabel="HU", ylabel="share", yscale="log", title="values, a line per case")
    right.hist(list(volumes) or [0.0], bins=20, color="#5b7fa6")
    right.set(xlabel="ml", ylabel="cases", title="fractured volume of the cases that have one")
    return picture(histograms, dpi=DPI)


def _fractures(source: Path) -> dict[str, list[str]]:
    """Level and grade of every fractured vertebra per case, where the data set has a table of vertebrae."""
    found: dict[str, list[str]] = {}
    path = source.with_name("vertebrae.csv")
    for row in read_table(path) if path.is_file() else []:
        grade, flag = row.get("grade") or "", row.get("fractured") or ""
        if flag == "1" or (not flag and grade not in ("", "0")):
            what = " ".join(p for p in (f"grade {grade}" if grade else "", row.get("shape") or "") if p)
            found.setdefault(row["case"], []).append(row["level"] + (f" ({what})" if what else ""))
    return found


def _case(case: Mapping[str, str], section: str, named: Mapping[str, list[str]]) -> tuple[Html, dict]:
    from ..visualization.overlay import draw_overlay

    image = read_volume(case["image"])
    volume = np.asarray(image.dataobj)
    mask = np.asarray(read_volume(case["label"]).dataobj) if case.get("label") else None
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    masks = {}
    if mask is not None:
        masks = {"reference": mask == 1} | ({"unknown": mask == 255} if (mask == 255).any() else {})
    facts = {
        "spacing": " x ".join(f"{s:.2f}" for s in spacing),
        "sample": np.asarray(volume.reshape(-1)[:: max(volume.size // 20000, 1)], np.float32),
        "ml": float((mask == 1).sum() * np.prod(spacing) / 1000) if mask is not None else None,
    }
    names = [stem(case["image"]), str(case.get("patient", ""))] + ([stem(case["label"])] if case.get("label") else [])
    levels = next((named[n] for n in names if n in named), [])
    if facts["ml"] is None:
        what = "no label"
    elif facts["ml"] == 0:
        what = "no fracture"
    else:
        what = (", ".join(levels) or "fractured") + f", {facts['ml']:.1f} ml"
    grid = f"{' x '.join(map(str, image.shape))}, {facts['spacing']} mm"
    content = text(f" {section}, patient {names[1] or '-'}: {what} ")
    caption = Html(element("b", names[0]) + content + element("span", grid, class_="muted"))
    return figure(draw_overlay(volume, image.affine, masks), caption, dpi=DPI), facts


def preview(datalist: str, out: str = "report.html", limit: int = 200) -> str:
    """Write one self-contained page with a sagittal picture of every case and the statistics of the set.

    Outlines show the label (value 1) and, dotted, what nobody knows (255). The slices are chosen through the label.

    Args:
        datalist: datalist.json.
        out: page to write.
        limit: greatest number of cases to show; the page says how many it leaves out.

    Returns:
        Path of the page.
    """
    source, sections = read_datalist(datalist)
    places = [(s, case) for s, cases in sections.items() for case in cases]
    named = _fractures(source)
    figures, failed, facts = [], [], []
    for section, case in tqdm(places[:limit], desc="drawing", unit="case"):
        try:
            shown, known = _case(case, section, named)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            failed.append(f"{case.get('image')}: {line}")
            tqdm.write(f"left out: {failed[-1]}")
            continue
        figures.append(shown)
        facts.append((section, known))
    rows = []
    for section in SECTIONS:
        part = [f for s, f in facts if s == section]
        judged = [f["ml"] for f in part if f["ml"] is not None]
        patients = {str(c.get("patient", c.get("image"))) for s, c in places if s == section}
        ill = sum(ml > 0 for ml in judged)
        share = f"{ill} of {len(judged)}" if judged else "-"
        median = f"{np.median([m for m in judged if m > 0]):.1f} ml" if ill else "-"
        spacings = sorted({f["spacing"] for f in part})
        listed = "; ".join(spacings[:3]) + (f"; {len(spacings) - 3} more" if len(spacings) > 3 else "")
        rows.append((section, sum(s == section for s, _ in places), len(patients), share, median, listed or "-"))
    name = source.parent.name
    parts = [
        element("h1", name),
        element("p", str(source), class_="muted"),
        table(("section", "cases", "patients", "with a fracture", "median volume", "spacing (mm)"), rows),
        *([_histograms([f["sample"] for _, f in facts], [f["ml"] for _, f in facts if f["ml"]])] if facts else []),
        *(element("p", line, class_="error") for line in failed),
    ]
    if len(places) > limit:
        parts.append(element("p", f"{len(places) - limit} more cases are not shown (limit {limit})."))
    write_page(out, name, [*parts, *figures])
    if failed:
        raise InputError(
            f"{len(failed)} of {min(len(places), limit)} cases could not be drawn, see above; the page is {out}"
        )
    return str(out)
