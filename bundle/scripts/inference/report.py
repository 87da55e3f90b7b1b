# SPDX-License-Identifier: Apache-2.0
"""``report.html``: findings of all scans of a run on one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..postprocessing.measurements import DEFINITIONS
from ..visualization.html_report import Html, definitions, element, items, note, picture, settings, table, write_page

RESEARCH = (
    "For research use only. The networks of this program were developed on simulated fractures; nothing on this page is a "
    "diagnosis, and it must not be used in the care of a patient."
)
COLUMNS = {
    "finding": "finding",
    "level": "level",
    "volume_ml": "volume (ml)",
    "mean_probability": "mean probability",
    "max_probability": "max probability",
    "uncertainty": "uncertainty (bit)",
    "mean_hu": "mean HU",
    "slice_first": "first slice",
    "slice_last": "last slice",
}
MAX_PICTURES = 60  # embedded overlays; further ones are links


def _findings(rows: Sequence[Mapping]) -> Html:
    if not rows:
        return element("p", "No finding.")
    centres = (", ".join(f"{r[f'centroid_{a}_mm']:.0f}" for a in "ras") for r in rows)
    cells = [[*(r[c] for c in COLUMNS), centre] for r, centre in zip(rows, centres, strict=True)]
    return table([*COLUMNS.values(), "centre R, A, S (mm)"], cells)


def _case(result: Mapping, root: Path, embed: bool) -> Html:
    name = result["case_path"]
    path = root / f"{name}_overlay.png"
    image = Html()
    if path.is_file():
        link = element("a", "overlay", href=path.relative_to(root).as_posix())
        image = picture(path, name) if embed else element("p", link)
    size = " x ".join(map(str, result["shape"]))
    spacing = " x ".join(f"{s:g}" for s in result["spacing_mm"])
    facts = f"{size} voxels of {spacing} mm; processed in {sum(result['seconds'].values()):.1f} s"
    parts = [element("h2", name, id=name), element("p", facts), items(result["notes"]), _findings(result["findings"])]
    return Html("".join([*parts, image]))


def write_report(root: Path, results: Sequence[Mapping], problems: Sequence[Mapping], manifest: Mapping) -> Path:
    """Write ``report.html``.

    Args:
        root: folder of the results; it contains the overlays.
        results: one per scan, as ``case.segment_case`` returns them.
        problems: scans that could not be segmented, with the reason.
        manifest: provenance of the results: weights, options, versions.

    Returns:
        Path of the page.
    """
    total = sum(len(r["findings"]) for r in results)
    positive = sum(1 for r in results if r["findings"])
    overview = [
        (
            element("a", r["case_path"], href=f"#{r['case_path']}"),
            len(r["findings"]),
            f"{sum(f['volume_ml'] for f in r['findings']):.1f}",
            f"{max((f['max_probability'] for f in r['findings']), default=0):.2f}",
        )
        for r in results
    ]
    parts = [
        element("h1", f"Vertebral fractures in {len(results)} scan(s)"),
        note(element("b", RESEARCH)),
        *([note(f"{len(problems)} scan(s) could not be segmented:", items(p["problem"] for p in problems))] if problems else []),
        element("p", f"{total} finding(s) in {positive} of {len(results)} scan(s)."),
        table(["scan", "findings", "total volume (ml)", "max probability"], overview),
        *(_case(r, root, n < MAX_PICTURES) for n, r in enumerate(results)),
        element("h2", "Definitions"),
        definitions(DEFINITIONS),
        element("h2", "Provenance"),
        settings({k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in manifest.items()}),
    ]
    return write_page(root / "report.html", "Vertebral fractures", parts)
