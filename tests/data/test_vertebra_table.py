# SPDX-License-Identifier: Apache-2.0
"""The table of vertebrae has one set of columns, from head to feet; tables of version 0.5 are read."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.vertebra_table import COLUMNS, read_vertebra_table, vertebra_rows, write_vertebra_table

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def test_rows_run_from_head_to_feet_with_blanks_for_unknown():
    labels = np.zeros((4, 5, 12), np.uint8)
    for k, label in enumerate((26, 20, 28, 19, 99)):  # 99 is no vertebra
        labels[1:3, 1:3, 2 * k : 2 * k + 2] = label
    rows = vertebra_rows("case", labels, AFFINE, {19: {"fractured": 1, "grade": 2, "shape": "wedge"}})
    assert [r["level"] for r in rows] == ["T12", "T13", "L1", "S1"]
    assert all(tuple(r) == COLUMNS for r in rows)
    assert all(r["volume_ml"] == 0.16 for r in rows)  # 8 voxels of 20 mm³
    assert (rows[0]["fractured"], rows[0]["grade"], rows[0]["shape"], rows[0]["density"]) == (1, 2, "wedge", "")
    assert {rows[1][c] for c in ("fractured", "grade", "shape")} == {""}


def test_a_written_table_is_read_back(tmp_path):
    rows = vertebra_rows("case", np.full((2, 2, 2), 20, np.uint8), AFFINE, {20: {"fractured": 0, "grade": 0}})
    write_vertebra_table(tmp_path / "vertebrae.csv", rows)
    assert read_vertebra_table(tmp_path / "vertebrae.csv") == [{k: str(v) for k, v in rows[0].items()}]


@pytest.mark.parametrize(
    ("columns", "values", "fractured"),
    [
        ("grade,shape", "2,wedge", "1"),  # simulated sets of version 0.5
        ("grade,shape", "0,", "0"),
        ("grade,shape", ",", ""),
        ("fractured,grade", ",2", ""),  # converted sets of version 0.5
        ("fractured,grade", "0,1", "0"),  # below the smallest grade that counts
    ],
)
def test_tables_of_version_0_5_are_completed(tmp_path, columns, values, fractured):
    (tmp_path / "t.csv").write_text(f"case,label,level,{columns}\na,20,L1,{values}\n")
    (row,) = read_vertebra_table(tmp_path / "t.csv")
    assert set(row) == set(COLUMNS)
    assert (row["level"], row["fractured"]) == ("L1", fractured)


def test_text_that_is_no_grade_is_no_fracture(tmp_path):
    path = tmp_path / "vertebrae.csv"
    path.write_text("case,label,grade\na,20,x\na,21,0.0\na,22,2.0\na,23,\n")
    assert [row["fractured"] for row in read_vertebra_table(path)] == ["", "0", "1", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [("case;label\na;20\n", "row 2 has no case and no label"), ("case,label\na,T12\n", "row 2 has label='T12'; must be a number")],
)
def test_a_table_of_another_kind_is_one_line(tmp_path, text, message):
    path = tmp_path / "vertebrae.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_vertebra_table(path)
