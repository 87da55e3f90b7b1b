# SPDX-License-Identifier: Apache-2.0
"""Vertebrae of the scans in ``report.html``: a line per scan, overview and table per scan, and the viewer or its link."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from ..postprocessing.vertebra_record import VERTEBRA_DEFINITIONS, VertebraRecord, record_from_row
from ..visualization.html_report import Html, definitions, details, element, picture, table
from ..visualization.page_assets import asset
from ..visualization.vertebra_colours import FRACTURE_MARK, short_name
from ..visualization.vertebra_overview import read_marks
from ..visualization.vertebra_table import grade_text, vertebra_block
from ..visualization.volume_viewer import read_viewer, viewer_assets

NONE = "–"
VIEW_ENDINGS = {"overview": "overview.png", "viewer": "viewer.html"}


def records_of(result: Mapping) -> list[VertebraRecord]:
    """Vertebrae of a result; empty for a network without outputs for vertebrae."""
    return [record_from_row(row) for row in result.get("vertebrae") or ()]


def view_file(result: Mapping, root: Path, kind: str) -> Path | None:
    """Overview or viewer of a scan, if it exists."""
    base = root / result["case_path"]
    path = base.with_name(f"{base.name}_{VIEW_ENDINGS[kind]}")
    return path if path.is_file() else None


def _link(path: Path, root: Path, words: str) -> Html:
    return element("a", words, href=quote(path.relative_to(root).as_posix()))


def scan_overview(results: Sequence[Mapping], root: Path) -> Html:
    """Table with a line per scan: decisions of the network and measured grades side by side."""
    lines = []
    for result in results:
        records = records_of(result)
        highest = max((r.fracture_probability for r in records if not math.isnan(r.fracture_probability)), default=math.nan)
        viewer = view_file(result, root, "viewer")
        lines.append(
            (
                element("a", result["case_path"], href=f"#{result['case_path']}"),
                len(records),
                ", ".join(f"{FRACTURE_MARK} {short_name(r)}" for r in records if r.fractured) or NONE,
                NONE if math.isnan(highest) else f"{highest:.2f}",
                ", ".join(f"{short_name(r)}: {grade_text(r)}" for r in records if r.measured_grade) or NONE,
                _link(viewer, root, "viewer") if viewer else NONE,
            )
        )
    header = [
        "scan",
        "vertebrae",
        "network: fractured",
        "network: highest probability",
        "measured: grade (range), where above 0",
        "",
    ]
    return element("div", table(header, lines), class_="scroll")


def vertebra_section(result: Mapping, root: Path, embed_picture: bool, embed_viewer: bool) -> Html:
    """Overview, table and viewer of a scan.

    Args:
        result: as ``case.segment_case`` returns it, with ``vertebrae``.
        root: folder of the results.
        embed_picture: embed the overview, or else link it.
        embed_viewer: embed the viewer, or else link its page.
    """
    records, scan = records_of(result), result["case" if embed_viewer else "case_path"]
    overview, page = view_file(result, root, "overview"), view_file(result, root, "viewer")
    image = picture(overview, f"overview of {scan}") if overview and embed_picture else None
    parts = [vertebra_block(scan, records, image, read_marks(overview) if overview else {})]
    if overview and not image:
        parts.append(element("p", _link(overview, root, "overview"), class_="screen"))
    viewer = read_viewer(page) if page and embed_viewer else None
    if viewer:
        parts.append(viewer)
    elif page:
        parts.append(element("p", _link(page, root, "Scroll through this scan in the viewer"), class_="screen"))
    return Html("".join(parts))


def vertebra_definitions() -> Html:
    """Definitions of the columns of ``vertebrae.csv``, folded."""
    return details("Definitions of vertebrae.csv", definitions(VERTEBRA_DEFINITIONS))


def page_assets(with_viewer: bool) -> tuple[str, str, Html]:
    """Style, script and licences of a report with vertebrae; NiiVue is left out of a report that only links viewers."""
    if with_viewer:
        return viewer_assets()
    return asset("viewer.css"), asset("vertebra_table.js"), Html()
