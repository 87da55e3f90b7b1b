# SPDX-License-Identifier: Apache-2.0
"""Published Genant grades of VerSe: appendix E1 of Löffler et al. 2020 (doi:10.1148/ryai.2020190138)."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import InputError
from ...core.vertebrae import LABELS

SHAPE_CODES = {"0": "", "1": "wedge", "2": "biconcave", "3": "crush"}
GRADE_COLUMN = re.compile(r"^([CTL]\d{1,2})_fx-([gs])$")
MAX_COLUMNS, MAX_ROWS = 48, 1000  # the spreadsheet says that it has 16384 columns


@dataclass(frozen=True)
class VertebraGrade:
    """Genant grade of one vertebra.

    Attributes:
        grade: 0 to 3; None when the reader gave none (``x``, foreign material).
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
        raise InputError(f"{path}: is no .csv and no .xlsx; give appendix E1 in one of these forms")
    try:
        import openpyxl
    except ImportError:
        raise InputError(
            f"{path}: reading .xlsx needs openpyxl; pip install openpyxl, or save the table as .csv"
        ) from None
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
    """Return the stem of VerSe's file names: several series of one subject are told apart by ``_split-``."""
    return f"sub-verse{subject:03d}" if subject == series else f"sub-verse{subject:03d}_split-verse{series:03d}"


def read_grades(path: str | Path) -> dict[str, dict[int, VertebraGrade]]:
    """Read the grades per case and vertebra label.

    A blank cell is a vertebra that nobody graded: it is left out. ``x`` is one that could not be graded: its grade is None.

    Args:
        path: appendix E1 as ``.xlsx`` (as published) or ``.csv``.

    Returns:
        ``{"sub-verse007": {19: VertebraGrade(2, "wedge"), ...}, ...}``.

    Raises:
        InputError: when the file is missing or no such table.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such grading table; give appendix E1 of Löffler et al. 2020 as .xlsx or .csv")
    grades: dict[str, dict[int, VertebraGrade]] = {}
    for number, row in enumerate(_rows(file), start=2):
        levels = {m[1] for name in row if name and (m := GRADE_COLUMN.match(name)) and m[2] == "g"}
        if not levels or "subject_ID" not in row or "verse_ID" not in row:
            raise InputError(
                f"{file}: lacks the columns verse_ID, subject_ID and T1_fx-g to L6_fx-g; is it appendix E1?"
            )
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
                raise InputError(f"{file}: row {number}, {level}_fx-g={grade!r}; a grade is 0 to 3, x or blank")
            case[LABELS[level]] = (
                VertebraGrade(None) if grade == "x" else VertebraGrade(int(grade), SHAPE_CODES.get(shape, ""))
            )
        grades[name] = case
    if not grades:
        raise InputError(f"{file}: holds no graded case")
    return grades
