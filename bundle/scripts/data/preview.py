# SPDX-License-Identifier: Apache-2.0
"""One self-contained page that shows every case of a datalist."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import InputError
from ..core.files import read_table, write_text
from ..io.formats import read_volume, stem
from .datalist import SECTIONS, read_datalist

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c1f23; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .9rem .25rem 0; text-align: left; }
th { border-bottom: 1px solid #bbb; font-weight: 600; } figure { margin: 2rem 0; } img { max-width: 100%; }
figcaption { margin-bottom: .4rem; } .bad { color: #b3261e; } .quiet { color: #666; }
"""


def _png(figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _histograms(values: Sequence[np.ndarray], volumes: Sequence[float]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(-1100, 1900, 76)
    for sample in values:
        left.hist(np.clip(sample, edges[0], edges[-1]), edges, density=True, histtype="step", alpha=0.5, linewidth=0.8)
    left.set(xlabel="HU", ylabel="share", yscale="log", title="values, a line per case")
    right.hist(list(volumes) or [0.0], bins=20, color="#5b7fa6")
    right.set(xlabel="ml", ylabel="cases", title="fractured volume of the cases that have one")
    return _png(figure)


def _rows(title: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(str(t))}</th>" for t in title)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


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


def _case(case: Mapping[str, str], section: str, named: Mapping[str, list[str]]) -> tuple[str, dict]:
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
    caption = f"<b>{escape(names[0])}</b> {section}, patient {escape(names[1] or '-')}: {escape(what)}"
    caption += f' <span class="quiet">{" x ".join(map(str, image.shape))}, {facts["spacing"]} mm</span>'
    picture = _png(draw_overlay(volume, image.affine, masks))
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>", facts


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
            figure, known = _case(case, section, named)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            failed.append(f"{case.get('image')}: {line}")
            tqdm.write(f"left out: {failed[-1]}")
            continue
        figures.append(figure)
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
        shown = "; ".join(spacings[:3]) + (f"; {len(spacings) - 3} more" if len(spacings) > 3 else "")
        rows.append((section, sum(s == section for s, _ in places), len(patients), share, median, shown or "-"))
    notes = "".join(f'<p class="bad">{escape(line)}</p>' for line in failed)
    if len(places) > limit:
        notes += f"<p>{len(places) - limit} more cases are not shown (limit {limit}).</p>"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(source.parent.name)}</title><style>{STYLE}</style>'
        f"<h1>{escape(source.parent.name)}</h1><p class='quiet'>{escape(str(source))}</p>"
        + _rows(("section", "cases", "patients", "with a fracture", "median volume", "spacing (mm)"), rows)
        + (_histograms([f["sample"] for _, f in facts], [f["ml"] for _, f in facts if f["ml"]]) if facts else "")
        + notes
        + "".join(figures)
        + "</html>\n"
    )
    write_text(out, page)
    if failed:
        raise InputError(
            f"{len(failed)} of {min(len(places), limit)} cases could not be drawn, see above; the page is {out}"
        )
    return str(out)
