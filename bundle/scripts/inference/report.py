# SPDX-License-Identifier: Apache-2.0
"""One page about what was found in all scans of a run. It holds everything in itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..core.files import write_text
from ..postprocessing.measurements import DEFINITIONS

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #d8dee4; }
th:first-child, td:first-child { text-align: left; } img { max-width: 100%; }
.note { background: #fff8c5; padding: .6rem 1rem; } code { word-break: break-all; } h2 { margin-top: 2.2rem; }
"""
RESEARCH = (
    "For research use only. The networks of this program were developed on simulated fractures; nothing on this page is a "
    "diagnosis and nothing here may guide the care of a patient."
)
SHOWN = {
    "finding": "finding",
    "level": "level",
    "volume_ml": "ml",
    "mean_probability": "mean p",
    "max_probability": "max p",
    "uncertainty": "uncertainty (bit)",
    "mean_hu": "mean HU",
    "slice_first": "first slice",
    "slice_last": "last slice",
}
MOST_PICTURES = 60


def _row(cells: Sequence[object], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in cells) + "</tr>"


def _findings(rows: Sequence[Mapping]) -> str:
    if not rows:
        return "<p>No finding.</p>"
    head = _row([*SHOWN.values(), "centre R, A, S (mm)"], "th")
    body = "".join(
        _row([*(r[c] for c in SHOWN), ", ".join(f"{r[f'centroid_{a}_mm']:.0f}" for a in "ras")]) for r in rows
    )
    return f"<table>{head}{body}</table>"


def _case(result: Mapping, root: Path, embed: bool) -> str:
    name = escape(result["case_path"])
    picture = root / f"{result['case_path']}_overlay.png"
    image = ""
    if picture.is_file() and embed:
        data = base64.b64encode(picture.read_bytes()).decode()
        image = f'<img alt="{name}" src="data:image/png;base64,{data}">'
    elif picture.is_file():
        image = f'<p><a href="{escape(picture.relative_to(root).as_posix())}">picture</a></p>'
    size = " x ".join(map(str, result["shape"]))
    spacing = " x ".join(f"{s:g}" for s in result["spacing_mm"])
    notes = "".join(f"<li>{escape(n)}</li>" for n in result["notes"])
    return (
        f'<h2 id="{name}">{name}</h2><p>{size} voxels of {spacing} mm; {sum(result["seconds"].values()):.1f} s</p>'
        f"{f'<ul>{notes}</ul>' if notes else ''}{_findings(result['findings'])}{image}"
    )


def write_report(root: Path, results: Sequence[Mapping], problems: Sequence[Mapping], manifest: Mapping) -> Path:
    """Write ``report.html``.

    Args:
        root: folder of the results; pictures are taken from it.
        results: one per scan, as ``case.segment_case`` returns them.
        problems: scans that could not be segmented, with the reason.
        manifest: what the results were made with.

    Returns:
        Path of the page.
    """
    total = sum(len(r["findings"]) for r in results)
    with_any = sum(1 for r in results if r["findings"])
    overview = "".join(
        f'<tr><td><a href="#{escape(r["case_path"])}">{escape(r["case_path"])}</a></td><td>{len(r["findings"])}</td>'
        f"<td>{sum(f['volume_ml'] for f in r['findings']):.1f}</td>"
        f"<td>{max((f['max_probability'] for f in r['findings']), default=0):.2f}</td></tr>"
        for r in results
    )
    failed = ""
    if problems:
        items = "".join(f"<li>{escape(p['problem'])}</li>" for p in problems)
        failed = f'<div class="note">{len(problems)} scan(s) could not be segmented:<ul>{items}</ul></div>'
    meanings = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in DEFINITIONS.items())
    made = "".join(
        f"<li>{escape(k)}: <code>{escape(v if isinstance(v, str) else json.dumps(v, default=str))}</code></li>"
        for k, v in manifest.items()
    )
    page = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Vertebral fractures</title><style>{STYLE}</style>',
        f'<h1>Vertebral fractures in {len(results)} scan(s)</h1><p class="note"><b>{RESEARCH}</b></p>{failed}',
        f"<p>{total} finding(s) in {with_any} of {len(results)} scan(s).</p>",
        "<table><tr><th>scan</th><th>findings</th><th>ml</th><th>highest p</th></tr>" + overview + "</table>",
        *(_case(r, root, n < MOST_PICTURES) for n, r in enumerate(results)),
        f"<h2>What the numbers mean</h2><ul>{meanings}</ul><h2>Made with</h2><ul>{made}</ul></html>\n",
    ]
    write_text(root / "report.html", "\n".join(page))
    return root / "report.html"
