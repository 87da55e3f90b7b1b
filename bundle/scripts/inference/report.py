# SPDX-License-Identifier: Apache-2.0
"""``report.html``: vertebrae or findings of all scans of a run on one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from ..postprocessing.measurements import DEFINITIONS, FRACTURED_VERTEBRA, OUTSIDE
from ..visualization.html_report import (
    RESEARCH,
    Html,
    definitions,
    details,
    element,
    headline,
    items,
    note,
    picture,
    settings,
    table,
    write_page,
)
from ..visualization.panes import NOTHING
from .report_vertebrae import page_assets, records_of, scan_overview, vertebra_definitions, vertebra_section, view_file

COLUMNS = {
    "finding": "finding",
    "levels": "levels",
    "volume_ml": "volume (ml)",
    "mean_probability": "mean probability",
    "max_probability": "max probability",
    "uncertainty": "uncertainty (bit)",
    "mean_hu": "mean HU",
    "slice_first": "first slice",
    "slice_last": "last slice",
}
DIGITS = {"volume_ml": 1, "mean_probability": 2, "max_probability": 2, "uncertainty": 2, "mean_hu": 0}
MAX_PICTURES = 60  # embedded overlays; further ones are links
MAX_VIEWERS = 1  # embedded viewers, as each takes megabytes; the others are pages of their own


def _findings(rows: Sequence[Mapping]) -> Html:
    if not rows:
        return element("p", f"{NOTHING[0].upper()}{NOTHING[1:]}.")
    # From head to feet; results of earlier versions have no levels.
    ordered = sorted(({"levels": r.get("level", ""), **r} for r in rows), key=lambda r: -float(r["centroid_s_mm"]))
    centres = (", ".join(f"{r[f'centroid_{a}_mm']:.0f}" for a in "ras") for r in ordered)
    cells = [[*(_cell(c, r[c]) for c in COLUMNS), centre] for r, centre in zip(ordered, centres, strict=True)]
    return element("div", table([*COLUMNS.values(), "centre R, A, S (mm)"], cells), class_="scroll")


def _cell(column: str, value: object) -> object:
    """Cell of a finding with the decimal places of its column; a finding outside every given vertebra is marked."""
    if column == "levels" and value == OUTSIDE:
        return element("b", "⚠ outside every given vertebra", class_="error")
    return f"{value:.{DIGITS[column]}f}" if column in DIGITS and isinstance(value, (int, float)) else value


def _overlay(result: Mapping, root: Path, embed: bool) -> Html:
    path = root / f"{result['case_path']}_overlay.png"
    if not path.is_file():
        return Html()
    link = element("a", "overlay", href=quote(path.relative_to(root).as_posix()))
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
    lines = [
        (
            element("a", r["case_path"], href=f"#{r['case_path']}"),
            len(r["findings"]),
            f"{sum(f['volume_ml'] for f in r['findings']):.1f}",
            f"{max((f['max_probability'] for f in r['findings']), default=0):.2f}",
        )
        for r in results
    ]
    return [table(["scan", "findings", "total volume (ml)", "max probability"], lines)]


def _vertebra_overview(results: Sequence[Mapping], root: Path) -> list[Html]:
    return [scan_overview(results, root)] if len(results) > 1 else []


def _headline(
    results: Sequence[Mapping], problems: Sequence[Mapping], manifest: Mapping, with_vertebrae: bool
) -> list[tuple[str, str]]:
    """Numbers of scans and of marked vertebrae or findings, the network, and the date."""
    lines = [("Scans", f"{len(results)} segmented" + (f", {len(problems)} not segmented" if problems else ""))]
    if with_vertebrae:
        records = [r for result in results for r in records_of(result)]
        positive = sum(any(r.fractured for r in records_of(result)) for result in results)
        marked = f"{sum(r.fractured for r in records)} of {len(records)} vertebrae, in {positive} of {len(results)} scan(s)"
        graded = [r for r in records if r.measured_grade is not None]
        lines.append(("Fractured by the network", marked))
        lines.append(
            ("Measured grade 1 to 3, by height", f"{sum(bool(r.measured_grade) for r in graded)} of {len(graded)} vertebrae")
        )
    else:
        found = sum(len(r["findings"]) for r in results)
        positive = sum(bool(r["findings"]) for r in results)
        lines.append(("Findings", f"{found}, in {positive} of {len(results)} scan(s)" if found else NOTHING))
    stored = manifest.get("settings")
    files = stored.get("checkpoints", {}).values() if isinstance(stored, Mapping) else ()
    weights = dict.fromkeys(str(f) for group in files for f in group)
    if weights:
        lines.append(("Weights", ", ".join(_short(f) for f in weights)))
    if manifest.get("created"):
        lines.append(("Date", _date(str(manifest["created"]))))
    return lines


def _short(weights: str) -> str:
    """Abbreviated hash, or the name of a file."""
    return f"SHA-256 {weights[:12]}" if len(weights) == 64 else Path(weights).name


def _date(created: str) -> str:
    """Time in the form of the other reports; what is no ISO 8601 time stays as it is."""
    try:
        return datetime.fromisoformat(created).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return created


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
        element("h1", f"Vertebral fractures in {len(results)} scan{'s' if len(results) != 1 else ''}"),
        headline(_headline(results, problems, manifest, with_vertebrae)),
        note(element("b", RESEARCH)),
        *([note(f"{len(problems)} scan(s) could not be segmented:", items(p["problem"] for p in problems))] if problems else []),
        *(_vertebra_overview(results, root) if with_vertebrae else _finding_overview(results)),
        *(_case(r, root, n, viewers) for n, r in enumerate(results)),
        *([vertebra_definitions()] if with_vertebrae else []),
        details("Definitions of findings.csv", definitions(DEFINITIONS | (FRACTURED_VERTEBRA if with_vertebrae else {}))),
        details("Provenance", settings({k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in manifest.items()})),
        licences,
    ]
    return write_page(root / "report.html", "Vertebral fractures", [element("main", *parts)], style, script)
