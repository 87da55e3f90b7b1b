# SPDX-License-Identifier: Apache-2.0
"""The user's table of patients and of graded vertebrae by case, CSV with commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import InputError
from ..core.files import write_table
from ..core.genant import SHAPES
from ..core.suggestions import suggest
from ..core.vertebrae import LABELS, LEVELS
from ..io.case_naming import case_name

COLUMNS = ("case", "patient", "level", "label", "grade", "shape")
UNKNOWN = ("", "x", "?", "-", "na", "n/a", "nan", "unknown")
SHAPE_CODES = dict(enumerate(["", *SHAPES]))
LEVEL = re.compile(r"(C|TH|T|D|L|S)0?(\d{1,2})")  # Th12 and D12 are T12


@dataclass(frozen=True)
class Grade:
    """Row of one vertebra: grade 0 to 3, or None where it is unknown; shape; number of the row."""

    grade: int | None
    shape: str
    row: int


@dataclass
class TableCase:
    """Rows of one case.

    Attributes:
        patient: patient, or "".
        grades: grade by vertebra label.
        intact: True where a row without a level has grade 0: no vertebra is fractured.
        row: number of its first row.
    """

    patient: str = ""
    grades: dict[int, Grade] = field(default_factory=dict)
    intact: bool = False
    row: int = 0


@dataclass
class CaseTable:
    """Table by case.

    Attributes:
        path: file.
        graded: whether it has grades; else patients alone.
        cases: usable cases.
        problems: one line for each row that cannot be used, by case; "" for rows without a case.
        notes: one line for each repeated row.
    """

    path: Path
    graded: bool
    cases: dict[str, TableCase] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def lists_intact(self) -> bool:
        """True where some vertebra has grade 0: the table grades vertebrae, and is no list of fractures alone."""
        return any(g.grade == 0 for case in self.cases.values() for g in case.grades.values())


def parse_level(text: str) -> int | None:
    """VerSe label of a level such as "T12", "Th12", "th 12" or "19"; None for anything else."""
    word = text.upper().replace(" ", "").removesuffix(".0")
    if word.isdigit():
        return int(word) if int(word) in LEVELS else None
    match = LEVEL.fullmatch(word)
    return LABELS.get(f"{'T' if match[1] in ('TH', 'D') else match[1]}{match[2]}") if match else None


def _decode(path: Path) -> str:
    """Text of a table that a spreadsheet or editor wrote."""
    content = path.read_bytes()
    if content[:4] == b"PK\x03\x04":
        raise InputError(f"{path}: is a spreadsheet; save it as CSV")
    for encoding in ("utf-16",) if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{path}: is no text; save it as CSV in UTF-8")


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and the cells of every row that is not blank with the number of its line."""
    lines = _decode(path).splitlines()
    first = next((line for line in lines if line.strip(" ,;\t")), "")
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=max(",;\t", key=first.count), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        rows += [(reader.line_num, [c.strip() for c in cells]) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is no CSV ({error}); save the table again") from None
    if not rows:
        raise InputError(f"{path}: is empty; expected the columns {', '.join(COLUMNS)}")
    return [c.lower() for c in rows[0][1]], rows[1:]


def _check_columns(path: Path, names: Sequence[str]) -> bool:
    """Refuse a table that lacks columns; returns True where it has grades."""
    repeated = next((n for n in names if n and names.count(n) > 1), None)
    if repeated:
        raise InputError(f"{path}: has the column {repeated} twice; delete one")
    misspelt = [
        (n, hint) for n in names if n and n not in COLUMNS and "did you mean" in (hint := suggest(n, set(COLUMNS) - set(names)))
    ]
    hint = f" ({misspelt[0][0]}: {misspelt[0][1]})" if misspelt else ""
    expected = f"expected {', '.join(COLUMNS)}, of which case and either patient, or grade with level or label, are required{hint}"
    graded = "grade" in names
    if "case" not in names:
        raise InputError(f"{path}: has no column case but {', '.join(names)}; {expected}")
    if graded != bool({"level", "label"} & set(names)):
        raise InputError(f"{path}: has no column {'level or label' if graded else 'grade'}; {expected}")
    if not graded and "patient" not in names:
        raise InputError(f"{path}: has only the column case; {expected}")
    return graded


def _vertebra(cells: Mapping[str, str]) -> int | None:
    """Label of the vertebra of a row; None where level and label are blank.

    Raises:
        ValueError: for an unknown level or label, and for two that contradict.
    """
    found = {}
    for name in ("level", "label"):
        if text := cells.get(name, ""):
            found[name] = parse_level(text)
            if found[name] is None:
                raise ValueError(f"{name}={text!r}; must be C1 to C7, T1 to T13, L1 to L6, S1, or VerSe's label 1 to 26 or 28")
    if len(set(found.values())) > 1:
        raise ValueError(
            f"level={cells['level']!r} and label={cells['label']!r} contradict: {cells['level']} has label {found['level']}"
        )
    return next(iter(found.values()), None)


def _grade(cells: Mapping[str, str], row: int) -> Grade:
    """Grade and shape of a row.

    Raises:
        ValueError: for a value that is neither.
    """
    text = cells.get("grade", "").lower()
    number = text.removesuffix(".0")
    if number not in ("0", "1", "2", "3") and text not in UNKNOWN:
        raise ValueError(f"grade={text!r}; must be 0 to 3 (Genant), or blank where it is unknown")
    shape = cells.get("shape", "").lower()
    shape = SHAPE_CODES.get(int(shape), shape) if shape.isdigit() else shape
    if shape and shape not in SHAPES:
        raise ValueError(f"shape={shape!r}; must be blank or one of {', '.join(SHAPES)}")
    return Grade(None if text in UNKNOWN else int(number), shape, row)


def _add(table: CaseTable, case: TableCase, cells: Mapping[str, str], row: int) -> None:
    """Enter a row into its case.

    Raises:
        ValueError: for a value that is invalid, or contradicts another row of the case.
    """
    patient = cells.get("patient", "")
    if patient and case.patient and patient != case.patient:
        raise ValueError(f"patient={patient!r} contradicts {case.patient!r} of another row of the case")
    case.patient = case.patient or patient
    if not table.graded:
        return
    vertebra, grade = _vertebra(cells), _grade(cells, row)
    if vertebra is None:
        if grade.grade:
            raise ValueError(f"grade {grade.grade} without level or label; name the vertebra")
        case.intact = case.intact or grade.grade == 0
    elif (before := case.grades.get(vertebra)) is None:
        case.grades[vertebra] = grade
    elif (before.grade, before.shape) == (grade.grade, grade.shape):
        table.notes.append(f"{table.path}: row {row} repeats row {before.row} ({LEVELS[vertebra]}); counted once")
    else:
        shown = ["unknown" if g.grade is None else f"{g.grade} {g.shape}".strip() for g in (before, grade)]
        raise ValueError(f"{LEVELS[vertebra]} has grade {shown[1]}, and {shown[0]} in row {before.row}; correct one")
    if case.intact and (fractured := [LEVELS[v] for v, g in case.grades.items() if g.grade]):
        raise ValueError(f"grade 0 without a level contradicts the grade of {fractured[0]}; delete one")


def read_case_table(path: Path | str) -> CaseTable:
    """Read a table with the columns case, patient, level or label, grade and shape, in any order; further columns are ignored.

    A blank grade is unknown. A row without level and with grade 0 stands for a case without a fracture. A table of case and patient
    alone has no grades.

    Args:
        path: CSV with commas, semicolons or tabs, UTF-8, UTF-16 or Windows-1252.

    Returns:
        The table; cases with a row that cannot be used are in ``problems`` alone.

    Raises:
        InputError: when the file is missing, is no CSV, or lacks a column.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such table; --write_table {file} writes one to fill in")
    names, rows = _rows(file)
    table = CaseTable(file, _check_columns(file, names))
    for row, values in rows:
        cells = dict(zip(names, values, strict=False))
        name = case_name(cells.get("case", "")) if cells.get("case") else ""
        try:
            if len(values) > len(names) and any(values[len(names) :]):
                raise ValueError(f"{len(values)} cells, and the header {len(names)}; correct the separators")
            if not name:
                raise ValueError("no case; name the image")
            _add(table, table.cases.setdefault(name, TableCase(row=row)), cells, row)
        except ValueError as error:
            table.problems.setdefault(name, []).append(f"{file}: row {row}{f' ({name})' if name else ''}: {error}")
    for name in table.problems:
        table.cases.pop(name, None)
    if not table.cases and not table.problems:
        raise InputError(f"{file}: has no row below its header; add the cases")
    return table


def write_case_table(path: Path | str, vertebrae: Mapping[str, Iterable[int]], patients: Mapping[str, str]) -> None:
    """Write a table to fill in: one row per vertebra with a blank grade.

    Args:
        path: CSV to write.
        vertebrae: labels of the vertebrae by case, from head to feet.
        patients: patient by case.
    """
    rows = [
        {"case": case, "patient": patients[case], "level": LEVELS[v], "label": v}
        for case, labels in vertebrae.items()
        for v in labels
    ]
    write_table(path, rows, COLUMNS)
