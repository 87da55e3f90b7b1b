# SPDX-License-Identifier: Apache-2.0
"""``report.html``: vertebrae or findings of all scans of a run on one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..postprocessing.measurements import DEFINITIONS
from ..visualization.html_report import (
    RESEARCH,
    Html,
    definitions,
    details,
    element,
    items,
    note,
    picture,
    settings,
    table,
    write_page,
)
from .report_vertebrae import page_assets, records_of, scan_overview, vertebra_definitions, vertebra_section, view_file

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
MAX_VIEWERS = 1  # embedded viewers, as each takes megabytes; the others are pages of their own


def _findings(rows: Sequence[Mapping]) -> Html:
    if not rows:
        return element("p", "No finding.")
    centres = (", ".join(f"{r[f'centroid_{a}_mm']:.0f}" for a in "ras") for r in rows)
    cells = [[*(r[c] for c in COLUMNS), centre] for r, centre in zip(rows, centres, strict=True)]
    return element("div", table([*COLUMNS.values(), "centre R, A, S (mm)"], cells), class_="scroll")


def _overlay(result: Mapping, root: Path, embed: bool) -> Html:
    path = root / f"{result['case_path']}_overlay.png"
    if not path.is_file():
        return Html()
    link = element("a", "overlay", href=path.relative_to(root).as_posix())
    return picture(path, result["case_path"]) if embed else element("p", link)


def _case(result: Mapping, root: Path, number: int, viewers: bool) -> Html:
    name, embed = result["case_path"], number < MAX_PICTURES
    size = " x ".join(map(str, result["shape"]))
    spacing = " x ".join(f"{s:g}" for s in result["spacing_mm"])
    facts = f"{size} voxels of {spacing} mm; processed in {sum(result['seconds'].values()):.1f} s"
    parts = [element("h2", name, id=name, class_="scan"), element("p", facts), items(result["notes"])]
    findings = [_findings(result["findings"]), _overlay(result, root, embed)]
    if records_of(result):
        parts += [vertebra_section(result, root, embed, viewers), details("Rows of findings.csv, and overlay", *findings)]
    else:
        parts += findings
    return Html("".join(parts))


def _finding_overview(results: Sequence[Mapping]) -> list[Html]:
    total, positive = sum(len(r["findings"]) for r in results), sum(1 for r in results if r["findings"])
    lines = [
        (
            element("a", r["case_path"], href=f"#{r['case_path']}"),
            len(r["findings"]),
            f"{sum(f['volume_ml'] for f in r['findings']):.1f}",
            f"{max((f['max_probability'] for f in r['findings']), default=0):.2f}",
        )
        for r in results
    ]
    return [
        element("p", f"{total} finding(s) in {positive} of {len(results)} scan(s)."),
        table(["scan", "findings", "total volume (ml)", "max probability"], lines),
    ]


def _vertebra_overview(results: Sequence[Mapping], root: Path) -> list[Html]:
    fractured = [sum(v.fractured for v in records_of(r)) for r in results]
    text = f"{sum(fractured)} fractured vertebra(e) by the network in {sum(map(bool, fractured))} of {len(results)} scan(s)."
    return [element("p", text), *([scan_overview(results, root)] if len(results) > 1 else [])]


def write_report(root: Path, results: Sequence[Mapping], problems: Sequence[Mapping], manifest: Mapping) -> Path:
    """Write ``report.html``.

    Args:
        root: folder of the results; it contains the overlays, overviews and viewers.
        results: one per scan, as ``case.segment_case`` returns them; scans with ``vertebrae`` show these, the others findings.
        problems: scans that could not be segmented, with the reason.
        manifest: provenance of the results: weights, options, versions.

    Returns:
        Path of the page.
    """
    with_vertebrae = any("vertebrae" in r for r in results)
    viewers = len(results) <= MAX_VIEWERS and any(records_of(r) and view_file(r, root, "viewer") for r in results)
    style, script, licences = page_assets(viewers) if with_vertebrae else ("", "", Html())
    parts = [
        element("h1", f"Vertebral fractures in {len(results)} scan(s)"),
        note(element("b", RESEARCH)),
        *([note(f"{len(problems)} scan(s) could not be segmented:", items(p["problem"] for p in problems))] if problems else []),
        *(_vertebra_overview(results, root) if with_vertebrae else _finding_overview(results)),
        *(_case(r, root, n, viewers) for n, r in enumerate(results)),
        element("h2", "Definitions"),
        *([vertebra_definitions(), details("Definitions of findings.csv", definitions(DEFINITIONS))] if with_vertebrae else []),
        *([] if with_vertebrae else [definitions(DEFINITIONS)]),
        element("h2", "Provenance"),
        settings({k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in manifest.items()}),
        licences,
    ]
    return write_page(root / "report.html", "Vertebral fractures", [element("main", *parts)], style, script)
