# SPDX-License-Identifier: Apache-2.0
"""Overview and table of the vertebrae of a scan as HTML; what the network decides and what is measured stand side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..postprocessing.vertebra_record import CUT_NOTE, VertebraRecord
from .html_report import Html, element
from .vertebra_colours import FRACTURE_MARK, colours_of, short_name

NONE = "–"
# Heading, its unit or explanation, and whether the cells are words.
NETWORK = (("Probability", "of a fracture, 0 to 1", False), ("Decision", "at the threshold", True))
MEASURED = (
    ("Anterior", "height, mm ± SD", False),
    ("Middle", "height, mm ± SD", False),
    ("Posterior", "height, mm ± SD", False),
    ("Height loss", "% of neighbours / of own back, ± SD", False),
    ("Genant grade", "by height, 0 to 3 (range)", False),
    ("Shape", "of the loss", True),
    ("Trabecular bone", "HU ± SD", False),
    ("Volume", "ml, with arch", False),
)
LEGEND = (
    f"{FRACTURE_MARK} and vermillion: the network decides for a fracture. ? after a level: counted from the sacrum, not certain. "
    f"{NONE}: not measured. The grade is measured by height alone; readers also see endplates, so the two groups can differ."
)


def _number(value: float, digits: int, factor: float = 1.0) -> str:
    # Adding 0 turns -0.0, which would be written with its sign, into 0.
    return NONE if math.isnan(value) else f"{round(value * factor, digits) + 0.0:.{digits}f}".replace("-", "−")


def _spread(value: float, sd: float, digits: int) -> str:
    if math.isnan(value):
        return NONE
    return _number(value, digits) + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}")


def loss_text(record: VertebraRecord) -> str:
    """Losses in per cent against the neighbours and the own posterior height, with the standard deviation of the larger one."""
    if math.isnan(record.loss_from_neighbours) and math.isnan(record.loss_from_posterior):
        return NONE
    pair = f"{_number(record.loss_from_neighbours, 0, 100)} / {_number(record.loss_from_posterior, 0, 100)}"
    return pair + ("" if math.isnan(record.loss_sd) else f" ± {_number(record.loss_sd, 0, 100)}")


def grade_text(record: VertebraRecord) -> str:
    """Measured grade with its range where that holds more than one grade."""
    if record.measured_grade is None:
        return NONE
    low, high = record.measured_grade_range or (record.measured_grade,) * 2
    return str(record.measured_grade) if low == high else f"{record.measured_grade} ({low}–{high})"


def decision_text(record: VertebraRecord) -> str:
    """Decision of the network in words."""
    if record.fractured:
        return f"{FRACTURE_MARK} fracture"
    return NONE if math.isnan(record.fracture_probability) else "no fracture"


def _cells(record: VertebraRecord) -> list[tuple[str, str]]:
    """Class and text of the cells after the level, in the order of ``NETWORK`` and ``MEASURED``."""
    heights = [_spread(h, sd, 1) for h, sd in zip(record.heights_mm, record.heights_sd_mm, strict=True)]
    network = [_number(record.fracture_probability, 2), decision_text(record)]
    measured = [*heights, loss_text(record), grade_text(record), record.measured_shape or NONE]
    measured += [_spread(record.trabecular_hu, record.trabecular_hu_sd, 0), _number(record.volume_ml, 1)]
    groups = [("network", NETWORK, network), ("measured", MEASURED, measured)]
    return [
        (f"{name}{' words' if words else ''}{' decision' if title == 'Decision' else ''}", cell)
        for name, columns, cells in groups
        for (title, _, words), cell in zip(columns, cells, strict=True)
    ]


def _notes(record: VertebraRecord) -> str:
    stated = record.complete or "border" in record.note
    return "; ".join(t for t in ("" if stated else CUT_NOTE, record.note) if t)


def _row(record: VertebraRecord, colour: str, mark: Sequence[float] | None) -> Html:
    swatch = element("span", class_="swatch", style=f"background:{colour}")
    name = f"{FRACTURE_MARK} {short_name(record)}" if record.fractured else short_name(record)
    note = _notes(record)
    classes = " ".join(c for c, use in (("fractured", record.fractured), ("noted", bool(note))) if use)
    attributes = {"data-vertebra": str(record.vertebra), "tabindex": "0", "aria-selected": "false"}
    if mark:
        attributes["data-mark"] = " ".join(f"{x:g}" for x in mark)
    cells = [element("td", text, class_=name) for name, text in _cells(record)]
    row = element("tr", element("th", swatch, name, scope="row"), *cells, class_=classes, **attributes)
    if not note:
        return row
    return Html(
        row + element("tr", element("th"), element("td", element("span", note), colspan=str(len(cells))), class_="note-row")
    )


def vertebra_table(records: Sequence[VertebraRecord], marks: Mapping[int, Sequence[float]] | None = None) -> Html:
    """Table of the vertebrae from head to feet, one row each.

    Args:
        records: vertebrae.
        marks: box of each vertebra in the overview as fractions (left, top, width, height), by number.
    """

    def heading(columns: Sequence[tuple[str, str, bool]], group: str) -> list[Html]:
        return [
            element("th", title, element("span", unit, class_="unit"), class_=f"{group}{' words' if words else ''}", scope="col")
            for title, unit, words in columns
        ]

    top = element(
        "tr",
        element("th", "Level", element("span", "or number", class_="unit"), rowspan="2", scope="col"),
        element("th", "Network", colspan=str(len(NETWORK)), class_="network", scope="colgroup"),
        element("th", "Measured on the CT", colspan=str(len(MEASURED)), class_="measured", scope="colgroup"),
        class_="group",
    )
    head = element("thead", top, element("tr", *heading(NETWORK, "network"), *heading(MEASURED, "measured")))
    colours = colours_of(records)
    ordered = sorted(records, key=lambda r: r.vertebra)
    rows = [_row(r, colours[r.vertebra], (marks or {}).get(r.vertebra)) for r in ordered]
    return element("div", element("table", head, element("tbody", *rows)), class_="scroll")


def vertebra_block(
    scan: str, records: Sequence[VertebraRecord], picture: Html | None = None, marks: Mapping[int, Sequence[float]] | None = None
) -> Html:
    """Overview with the table beside it; ``assets/vertebra_table.js`` connects them.

    Args:
        scan: name of the scan, which connects the block with its viewer.
        records: vertebrae.
        picture: ``img`` of the overview.
        marks: as for ``vertebra_table``.
    """
    left = []
    if picture:
        ring = element("span", class_="ring", hidden="hidden")
        caption = "Sagittal slice that follows the centres of the bodies from side to side; the patient’s front lies on the left."
        left = [element("div", element("div", picture, ring, class_="overview"), element("p", caption, class_="caption"))]
    right = element("div", vertebra_table(records, marks), element("p", LEGEND, class_="caption"))
    return element("div", *left, right, class_="vertebrae", **{"data-scan": scan})
