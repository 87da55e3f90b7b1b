# SPDX-License-Identifier: Apache-2.0
"""Colours and short names of the vertebrae of a scan, the same in every picture, table and viewer."""

from __future__ import annotations

from collections.abc import Sequence

from ..postprocessing.vertebra_record import VertebraRecord

# Okabe and Ito, "Color Universal Design", 2008: distinct with normal vision, protanopia and deuteranopia. Vermillion is kept for
# fractures; orange, which is near it, and the dark blue, which is lost on the dark bone of a CT, are left out.
INTACT = ("#56B4E9", "#F0E442", "#CC79A7", "#009E73")
FRACTURED = "#D55E00"
FRACTURE_MARK = "▲"


def colours_of(records: Sequence[VertebraRecord]) -> dict[int, str]:
    """Colour (``#RRGGBB``) by number of the vertebra; neighbours differ, and only fractured vertebrae are vermillion."""
    ordered = sorted(records, key=lambda r: r.vertebra)
    return {r.vertebra: FRACTURED if r.fractured else INTACT[n % len(INTACT)] for n, r in enumerate(ordered)}


def short_name(record: VertebraRecord) -> str:
    """Level, with a question mark where it is a guess, or the number alone."""
    return record.name if record.level else str(record.vertebra)
