# SPDX-License-Identifier: Apache-2.0
"""Published Genant grades of VerSe: appendix E1 of Löffler et al. 2020 (doi:10.1148/ryai.2020190138)."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.vertebrae import LABELS, LEVELS, voxels_per_label
from ..datalist import IGNORE_INDEX
from .conversion import map_labels

SHAPE_CODES = {"0": "", "1": "wedge", "2": "biconcave", "3": "crush"}
GRADE_COLUMN = re.compile(r"^([CTL]\d{1,2})_fx-([gs])$")
SPLIT = re.compile(r"(?<![a-z])(?:(train(?:ing)?)|(val(?:id(?:ation)?)?)|(test(?:ing)?))(?![a-z])", re.IGNORECASE)
MAX_COLUMNS, MAX_ROWS = 48, 1000  # the published sheet declares 16384 columns
SACRUM = LABELS["S1"]


@dataclass(frozen=True)
class VertebraGrade:
    """Genant grade of one vertebra.

    Attributes:
        grade: 0 to 3; None when it could not be graded (``x``, foreign material).
        shape: "wedge", "biconcave", "crush" or "".
    """

    grade: int | None
    shape: str = ""


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or XLSX file as text."""
    if path.suffix.lower() == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
        return
    if path.suffix.lower() != ".xlsx":
        raise InputError(f"{path}: must be .csv or .xlsx, as appendix E1 is published")
    try:
        import openpyxl
    except ImportError:
        raise InputError(f"{path}: reading .xlsx needs openpyxl; pip install openpyxl, or save the table as .csv") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the published sheet has no default style
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
    lines = sheet.iter_rows(max_col=MAX_COLUMNS, max_row=MAX_ROWS, values_only=True)
    header = [str(cell or "").strip() for cell in next(lines)]
    for line in lines:
        if any(cell is not None for cell in line):
            yield {name: _text(cell) for name, cell in zip(header, line, strict=False)}


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def case_name(subject: int, series: int) -> str:
    """Stem of VerSe's file names, in which ``_split-`` distinguishes the series of one subject."""
    return f"sub-verse{subject:03d}" if subject == series else f"sub-verse{subject:03d}_split-verse{series:03d}"


def read_grades(path: str | Path) -> dict[str, dict[int, VertebraGrade]]:
    """Read the grades per case and vertebra label.

    Ungraded vertebrae (blank cells) are left out; the grade of those that could not be graded (``x``) is None.

    Args:
        path: appendix E1 as ``.xlsx`` (as published) or ``.csv``.

    Returns:
        ``{"sub-verse007": {19: VertebraGrade(2, "wedge"), ...}, ...}``.

    Raises:
        InputError: when the file is missing or is another table.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such grading table; expected appendix E1 of Löffler et al. 2020, .xlsx or .csv")
    grades: dict[str, dict[int, VertebraGrade]] = {}
    for number, row in enumerate(_rows(file), start=2):
        levels = {m[1] for name in row if name and (m := GRADE_COLUMN.match(name)) and m[2] == "g"}
        if not levels or "subject_ID" not in row or "verse_ID" not in row:
            raise InputError(f"{file}: lacks the columns verse_ID, subject_ID and T1_fx-g to L6_fx-g; is it appendix E1?")
        try:
            name = case_name(int(row["subject_ID"]), int(row["verse_ID"]))
        except ValueError:
            continue  # a note below the table
        case: dict[int, VertebraGrade] = {}
        for level in sorted(levels):
            grade, shape = (row[f"{level}_fx-g"] or "").strip(), (row.get(f"{level}_fx-s") or "").strip()
            if grade == "":
                continue
            if grade not in ("0", "1", "2", "3", "x"):
                raise InputError(f"{file}: row {number}, {level}_fx-g={grade!r}; a grade must be 0 to 3, x or blank")
            case[LABELS[level]] = VertebraGrade(None) if grade == "x" else VertebraGrade(int(grade), SHAPE_CODES.get(shape, ""))
        grades[name] = case
    if not grades:
        raise InputError(f"{file}: contains no graded case; is it appendix E1?")
    return grades


def split_of(text: str) -> str:
    """Section of a datalist that a name such as "dataset-verse19test", "01_training" or "validation public" stands for, or ""."""
    match = SPLIT.search(text)
    return ("training", "validation", "testing")[match.lastindex - 1] if match and match.lastindex else ""


def read_splits(path: str | Path) -> dict[str, str]:
    """Read the split of VerSe 2019 of every case: "training", "validation" or "testing", or "" where the table has none.

    Args:
        path: see ``read_grades``, which checks the table.
    """
    splits: dict[str, str] = {}
    for row in _rows(Path(path)):
        try:
            name = case_name(int(row["subject_ID"]), int(row["verse_ID"]))
        except ValueError:
            continue  # a note below the table
        splits[name] = split_of(row.get("dataset") or "")
    return splits


def fracture_mask(
    vertebrae: NDArray[np.uint8], grades: Mapping[int, VertebraGrade], min_grade: int = 1, unknown: str = "ignore"
) -> NDArray[np.uint8] | None:
    """Training label: 1 where the grade is at least ``min_grade``, 0 elsewhere.

    Args:
        vertebrae: (X, Y, Z) VerSe labels.
        grades: grade per label; a missing label or grade is unknown.
        min_grade: smallest grade that counts as a fracture.
        unknown: value of unknown vertebrae: 255 for "ignore", 0 for "background"; "drop-case" returns None if there is one.
    """
    values: dict[int, int] = {}
    for label in voxels_per_label(vertebrae):
        grade = grades[label].grade if label in grades else None
        if grade is not None:
            values[label] = int(grade >= min_grade)
        elif label in LEVELS and label != SACRUM:
            if unknown == "drop-case":
                return None
            values[label] = IGNORE_INDEX if unknown == "ignore" else 0
    return map_labels(vertebrae, values)


def grade_attributes(grades: Mapping[int, VertebraGrade], min_grade: int = 1) -> dict[int, dict[str, object]]:
    """Columns of the table of vertebrae by label."""
    return {
        label: {"shape": g.shape}
        if g.grade is None
        else {"fractured": int(g.grade >= min_grade), "grade": g.grade, "shape": g.shape}
        for label, g in grades.items()
    }
