# SPDX-License-Identifier: Apache-2.0
"""Rows of ``vertebrae.csv`` of inference: one per vertebra of a scan, with one set of columns for tables, DICOM SR and report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERTEBRA_COLUMNS = (
    "case", "vertebra", "label", "level", "level_source", "complete", "fracture_probability", "fractured",
    "height_anterior_mm", "height_middle_mm", "height_posterior_mm",
    "height_anterior_sd_mm", "height_middle_sd_mm", "height_posterior_sd_mm",
    "loss_from_neighbours", "loss_from_posterior", "loss_sd",
    "measured_grade", "measured_grade_low", "measured_grade_high", "measured_shape",
    "trabecular_hu", "trabecular_hu_sd", "volume_ml", "body_volume_ml",
    "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "note",
)  # fmt: skip
VERTEBRA_DEFINITIONS = {
    "vertebra": "number of the vertebra in the scan, from the head to the feet, from 1",
    "label, level": "label of VerSe and its level, from the given mask of vertebrae or guessed; empty where neither is possible",
    "level_source": "mask: from the given mask; guess: counted from the sacrum; empty: unknown",
    "complete": "1: the whole vertebra is in the scan; 0: cut by its border: no heights, no grade, fractures often missed",
    "fracture_probability": "calibrated mean of the network's fracture probability over the vertebral body, 0 to 1",
    "fractured": "1 where fracture_probability reaches the threshold; a decision of the network, independent of the measured grade",
    "height_*_mm, height_*_sd_mm": "height of the body in front, in the middle and at the back (mm), and its standard deviation",
    "loss_from_neighbours": "greatest relative loss of a height against the mean of the intact neighbours",
    "loss_from_posterior": "greatest relative loss of the anterior or middle height against the posterior height of the same body",
    "loss_sd": "standard deviation of the loss that decides the grade",
    "measured_grade, _low, _high": "Genant grade 0 to 3 by height alone, and its range within two standard deviations of the loss",
    "measured_shape": "wedge, biconcave or crush, by the height that is lost; empty for grade 0",
    "trabecular_hu, trabecular_hu_sd": "mean HU of the trabecular bone of the body, and its spread between slices",
    "volume_ml, body_volume_ml": "volume of the mask of the whole vertebra, and of its body between the measured endplates (ml)",
    "centroid_*_mm": "centre of the body in patient coordinates, R right, A anterior, S superior (mm)",
}
DIGITS = {"_mm": 2, "_ml": 2, "_hu": 0, "_hu_sd": 0, "probability": 4, "loss": 3}
NAN = float("nan")

# In phantoms the network flags 9 of 56 cut vertebrae with a fracture of grade 2 or 3: docs/model_card/README.md.
CUT_NOTE = "cut by the border of the scan or of its mask: no heights, no grade; a fracture is often missed"


@dataclass
class VertebraRecord:
    """One vertebra of a scan. NaN, None and "" are unknown.

    Attributes:
        vertebra: number in the scan from the head to the feet, from 1.
        label: VerSe label, or None.
        level: level such as "T12", or "".
        level_source: "mask", "guess" or "".
        complete: False for a vertebra that the border of the scan cuts.
        fracture_probability: calibrated probability of a fracture.
        fractured: decision of the network at the threshold.
        heights_mm: anterior, middle and posterior height of the body (mm).
        heights_sd_mm: their standard deviations (mm).
        loss_from_neighbours: greatest relative loss against the intact neighbours.
        loss_from_posterior: greatest relative loss against the posterior height of the same body.
        loss_sd: standard deviation of the loss that decides the grade.
        measured_grade: Genant grade by height, or None.
        measured_grade_range: grades within two standard deviations of the loss, or None.
        measured_shape: "wedge", "biconcave", "crush" or "".
        trabecular_hu: mean HU of the trabecular bone, and its spread.
        trabecular_hu_sd: spread of that HU between slices.
        volume_ml: volume of the vertebra (ml).
        body_volume_ml: volume of the body (ml).
        centroid_mm: centre of the body (R, A, S), mm.
        note: reason for what is missing or uncertain, or "".
    """

    vertebra: int
    label: int | None = None
    level: str = ""
    level_source: str = ""
    complete: bool = True
    fracture_probability: float = NAN
    fractured: bool = False
    heights_mm: tuple[float, float, float] = (NAN, NAN, NAN)
    heights_sd_mm: tuple[float, float, float] = (NAN, NAN, NAN)
    loss_from_neighbours: float = NAN
    loss_from_posterior: float = NAN
    loss_sd: float = NAN
    measured_grade: int | None = None
    measured_grade_range: tuple[int, int] | None = None
    measured_shape: str = ""
    trabecular_hu: float = NAN
    trabecular_hu_sd: float = NAN
    volume_ml: float = NAN
    body_volume_ml: float = NAN
    centroid_mm: tuple[float, float, float] = (NAN, NAN, NAN)
    note: str = ""
    case: str = field(default="", kw_only=True)

    @property
    def name(self) -> str:
        """Level, with a question mark where it is a guess, or the number of the vertebra."""
        return f"{self.level}{'?' if self.level_source == 'guess' else ''}" if self.level else f"vertebra {self.vertebra}"

    def row(self) -> dict[str, Any]:
        """Row of ``VERTEBRA_COLUMNS``; an unknown value is ""."""
        low, high = self.measured_grade_range or ("", "")
        values: dict[str, Any] = {
            **{k: v for k, v in self.__dict__.items() if k in VERTEBRA_COLUMNS},
            "complete": int(self.complete),
            "fractured": int(self.fractured),
            **{f"height_{n}_mm": v for n, v in zip(("anterior", "middle", "posterior"), self.heights_mm, strict=True)},
            **{f"height_{n}_sd_mm": v for n, v in zip(("anterior", "middle", "posterior"), self.heights_sd_mm, strict=True)},
            **{f"centroid_{a}_mm": v for a, v in zip("ras", self.centroid_mm, strict=True)},
            "measured_grade_low": low,
            "measured_grade_high": high,
        }
        return {c: _cell(c, values[c]) for c in VERTEBRA_COLUMNS}


def _cell(column: str, value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value  # a number of NumPy
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return round(value, next((n for part, n in DIGITS.items() if part in column), 4))
    return value


def record_from_row(row: Mapping[str, Any]) -> VertebraRecord:
    """Record of a row of ``VERTEBRA_COLUMNS``, as read from ``vertebrae.csv`` or the JSON of a case."""

    def number(name: str) -> float:
        return NAN if row[name] in ("", None) else float(row[name])

    def whole(name: str) -> int | None:
        return None if row[name] in ("", None) else int(row[name])

    heights = tuple(number(f"height_{n}_mm") for n in ("anterior", "middle", "posterior"))
    spread = tuple(number(f"height_{n}_sd_mm") for n in ("anterior", "middle", "posterior"))
    low, high = whole("measured_grade_low"), whole("measured_grade_high")
    return VertebraRecord(
        vertebra=int(row["vertebra"]),
        label=whole("label"),
        level=str(row["level"]),
        level_source=str(row["level_source"]),
        complete=bool(int(row["complete"])),
        fracture_probability=number("fracture_probability"),
        fractured=bool(int(row["fractured"])),
        heights_mm=heights,  # type: ignore[arg-type]
        heights_sd_mm=spread,  # type: ignore[arg-type]
        loss_from_neighbours=number("loss_from_neighbours"),
        loss_from_posterior=number("loss_from_posterior"),
        loss_sd=number("loss_sd"),
        measured_grade=whole("measured_grade"),
        measured_grade_range=None if low is None or high is None else (low, high),
        measured_shape=str(row["measured_shape"]),
        trabecular_hu=number("trabecular_hu"),
        trabecular_hu_sd=number("trabecular_hu_sd"),
        volume_ml=number("volume_ml"),
        body_volume_ml=number("body_volume_ml"),
        centroid_mm=tuple(number(f"centroid_{a}_mm") for a in "ras"),  # type: ignore[arg-type]
        note=str(row["note"]),
        case=str(row["case"]),
    )
