# SPDX-License-Identifier: Apache-2.0
"""One page that a person looks at: numbers, figures, the worst cases. It holds everything in itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np

from ..core.files import atomic_write, write_text
from ..core.provenance import versions
from .aggregation import CaseResult, Summary
from .overlap import DEFINITIONS
from .plots import case_boxes, froc, volume_agreement
from .tables import cells, rules

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #d8dee4; }
th:first-child, td:first-child { text-align: left; } figure { margin: 1.5rem 0; } img { max-width: 100%; }
.note { background: #fff8c5; padding: .6rem 1rem; } code { word-break: break-all; }
"""


def worst_cases(results: Sequence[CaseResult], number: int = 6) -> list[CaseResult]:
    """Cases with the lowest DSC first; of equal ones, the larger false-positive volume first. A case without DSC is none."""
    scored = [r for r in results if np.isfinite(r.metrics["dice"])]
    return sorted(scored, key=lambda r: (r.metrics["dice"], -r.metrics["false_positive_ml"]))[:number]


def _picture(content: bytes, caption: str) -> str:
    data = base64.b64encode(content).decode()
    caption = escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _estimates(summary: Summary) -> list[str]:
    parts = []
    for section, rows in summary.sections.items():
        head = "".join(f"<th>{h}</th>" for h in (escape(section), "value", "95 % interval", "n", "patients"))
        body = "".join(
            f"<tr><td>{escape(name)}</td>" + "".join(f"<td>{c}</td>" for c in cells(e).split(" | ")) + "</tr>"
            for name, e in rows.items()
        )
        parts.append(f"<table><tr>{head}</tr>{body}</table>")
    return parts


def write_report(
    out: str | Path,
    results: Sequence[CaseResult],
    summary: Summary,
    min_overlap: float,
    facts: Mapping[str, object] | None = None,
    problems: Sequence[str] = (),
    pictures: Mapping[str, Path] | None = None,
) -> Path:
    """Write the figures into ``out/plots`` and ``out/report.html`` with all of them inside.

    Args:
        out: folder.
        results: cases.
        summary: what ``summarise`` made of them.
        min_overlap: as given to ``summarise``.
        facts: options and hashes, shown at the end.
        problems: one line per case that could not be scored.
        pictures: overlay of a case, by case; those of the worst cases are shown.

    Returns:
        Path of the page.
    """
    root = Path(out)
    figures = {
        "boxes.png": (case_boxes(results), "Scores case by case"),
        "froc.png": (froc(summary), "Sensitivity for fractures as ever less certain findings are accepted"),
        "volumes.png": (volume_agreement(results), "Agreement of volumes"),
    }
    shown = []
    for name, (figure, caption) in figures.items():
        if figure is None:
            (root / "plots" / name).unlink(missing_ok=True)  # of an earlier run into the same folder
            continue
        buffer = BytesIO()
        figure.savefig(buffer, dpi=110, format="png")
        with atomic_write(root / "plots" / name) as temporary:
            temporary.write_bytes(buffer.getvalue())
        shown.append(_picture(buffer.getvalue(), caption))
    worst = worst_cases(results)
    lines = "".join(
        f"<tr><td>{escape(r.case)}</td><td>{r.metrics['dice']:.3f}</td><td>{r.metrics['reference_ml']:.2f}</td>"
        f"<td>{r.metrics['prediction_ml']:.2f}</td><td>{r.metrics['false_positive_ml']:.2f}</td></tr>"
        for r in worst
    )
    gallery = [
        _picture(pictures[r.case].read_bytes(), f"{r.case}: DSC {r.metrics['dice']:.3f}")
        for r in worst
        if pictures and r.case in pictures and pictures[r.case].is_file()
    ]
    missing = ""
    if problems:
        items = "".join(f"<li>{escape(line)}</li>" for line in problems)
        total = len(results) + len(problems)
        missing = f'<div class="note">{len(problems)} of {total} cases could not be scored:<ul>{items}</ul></div>'
    details = {**dict(facts or {}), "versions": ", ".join(f"{k} {v}" for k, v in versions().items())}
    page = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style>',
        f"<h1>Evaluation of {len(results)} cases</h1>{missing}<p>{escape(rules(min_overlap))}</p>",
        *_estimates(summary),
        "<h2>Figures</h2>",
        *shown,
        "<h2>Worst cases</h2><table><tr><th>case</th><th>DSC</th><th>reference (ml)</th><th>prediction (ml)</th>"
        f"<th>false positive (ml)</th></tr>{lines}</table>",
        *gallery,
        "<h2>What the numbers mean</h2><ul>",
        *(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in DEFINITIONS.items()),
        "</ul><h2>Made with</h2><ul>",
        *(f"<li>{escape(k)}: <code>{escape(str(v))}</code></li>" for k, v in details.items()),
        "</ul></html>\n",
    ]
    write_text(root / "report.html", "\n".join(page))
    return root / "report.html"
