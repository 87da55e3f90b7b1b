# SPDX-License-Identifier: Apache-2.0
"""Rows of vertebrae survive CSV and JSON, and an unknown value stays unknown."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from scripts.postprocessing.vertebra_record import VERTEBRA_COLUMNS, VERTEBRA_DEFINITIONS, VertebraRecord, record_from_row

FULL = VertebraRecord(
    3, 19, "T12", "guess", True, 0.8125, True, (18.25, 20.5, 27.75), (0.5, 0.25, 0.75), 0.312, 0.333, 0.041, 2, (1, 3), "wedge",
    143.0, 12.0, 31.25, 17.5, (-3.5, 20.25, 101.0), "a note, with a comma", case="p1/ct",
)  # fmt: skip
RECORDS = [
    FULL,
    VertebraRecord(1),
    VertebraRecord(255, complete=False, note='cut, "top"'),
    VertebraRecord(2, measured_grade=0, measured_grade_range=(0, 0)),
]


def as_csv(row: dict) -> dict:
    file = io.StringIO()
    writer = csv.DictWriter(file, VERTEBRA_COLUMNS)
    writer.writeheader()
    writer.writerow(row)
    file.seek(0)
    return next(csv.DictReader(file))


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.name)
@pytest.mark.parametrize("store", [as_csv, lambda row: json.loads(json.dumps(row)), dict], ids=["csv", "json", "row"])
def test_row_and_back(record, store):
    row = record.row()
    assert tuple(row) == VERTEBRA_COLUMNS
    assert record_from_row(store(row)).row() == row


def test_unknown_is_empty_and_not_nan():
    row = VertebraRecord(1).row()
    known = {k: v for k, v in row.items() if v != ""}
    assert known == {"vertebra": 1, "complete": 1, "fractured": 0}
    again = record_from_row(as_csv(row))
    assert math.isnan(again.fracture_probability)
    assert all(math.isnan(v) for v in (*again.heights_mm, *again.centroid_mm))
    assert (again.label, again.measured_grade, again.measured_grade_range) == (None, None, None)


def test_numbers_of_numpy_become_json():
    record = VertebraRecord(
        np.int64(2), np.uint8(20), "L1", "mask", np.bool_(False), np.float64(0.25), np.bool_(True),  # type: ignore[arg-type]
        tuple(np.float32([20.125, np.nan, 25])), measured_grade=np.int64(1), volume_ml=np.float32(30.25),  # type: ignore[arg-type]
    )  # fmt: skip
    row = json.loads(json.dumps(record.row()))
    assert (row["label"], row["complete"], row["fractured"], row["fracture_probability"]) == (20, 0, 1, 0.25)
    assert (row["height_anterior_mm"], row["height_middle_mm"], row["measured_grade"]) == (pytest.approx(20.125, abs=0.01), "", 1)


def test_name_shows_a_guess():
    assert [r.name for r in (FULL, VertebraRecord(4), VertebraRecord(4, 20, "L1", "mask"))] == ["T12?", "vertebra 4", "L1"]


def test_every_column_is_defined():
    defined = " ".join(VERTEBRA_DEFINITIONS)
    stems = [c.replace("_anterior_", "_*_").replace("_middle_", "_*_").replace("_posterior_", "_*_") for c in VERTEBRA_COLUMNS]
    for column in stems:
        shortened = "centroid_*_mm" if column.startswith("centroid") else column
        suffix = "_" + column.rsplit("_", 1)[-1]
        assert column in ("case", "note") or shortened in defined or suffix in defined, column
