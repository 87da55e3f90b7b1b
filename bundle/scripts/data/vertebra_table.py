# SPDX-License-Identifier: Apache-2.0
"""``vertebrae.csv``: one row per labelled vertebra of every case, with one set of columns for all writers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.deprecations import migrate_keys
from ..core.errors import InputError
from ..core.files import read_table, write_table
from ..core.vertebrae import LEVELS, spine_order, voxels_per_label
from ..io.case_naming import case_name, without_endings
from ..io.formats import stem

FILE_NAME = "vertebrae.csv"
# A blank value is unknown. fractured: 1 or 0; grade: 0 to 3 (Genant); loss_* and density: relative height loss and kind of density
# change of a simulated fracture; volume_ml: volume of the whole vertebra.
COLUMNS = (
    "case",
    "label",
    "level",
    "fractured",
    "grade",
    "shape",
    "loss_anterior",
    "loss_middle",
    "loss_posterior",
    "density",
    "volume_ml",
)


def vertebra_rows(
    case: str, labels: NDArray, affine: NDArray, attributes: Mapping[int, Mapping[str, object]]
) -> list[dict[str, object]]:
    """One row of ``COLUMNS`` per vertebra, from head to feet.

    Args:
        case: name of the case.
        labels: (X, Y, Z) VerSe labels; other values are left out.
        affine: (4, 4) of the labels, in mm.
        attributes: values of further columns by label; what is missing is blank.
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    counts = voxels_per_label(labels)
    return [
        {
            **{c: attributes.get(v, {}).get(c, "") for c in COLUMNS},
            "case": case,
            "label": v,
            "level": LEVELS[v],
            "volume_ml": round(counts[v] * voxel_ml, 2),
        }
        for v in spine_order(np.fromiter(counts, np.uint8))
    ]


def write_vertebra_table(path: Path | str, rows: Iterable[Mapping]) -> None:
    """Write rows with all ``COLUMNS``."""
    write_table(path, rows, COLUMNS)


def read_vertebra_table(path: Path | str) -> list[dict[str, str]]:
    """Read rows with all ``COLUMNS``, also of tables of version 0.5, in which simulated sets had no column ``fractured``.

    Raises:
        InputError: for a row without case or with a label that is no number.
    """
    rows = []
    for number, row in enumerate(map(migrate_keys, read_table(path)), start=2):
        missing = [name for name in ("case", "label") if row.get(name) is None]
        if missing:
            raise InputError(
                f"{path}: row {number} has no {' and no '.join(missing)}; expected a table with commas, as `data` writes"
            )
        label = row["label"].strip()
        if not label.isdigit():
            raise InputError(
                f"{path}: row {number} has label={row['label']!r}; must be a number of VerSe's labels, such as 20 for L1"
            )
        fractured = row.get("fractured", _fractured(row.get("grade") or ""))
        rows.append(
            {
                **dict.fromkeys(COLUMNS, ""),
                **{k: v for k, v in row.items() if k is not None},
                "label": label,
                "fractured": fractured,
            }
        )
    return rows


def _fractured(grade: str) -> str:
    """``fractured`` of a grade: 1 from grade 1, 0 of grade 0, blank of any other text, such as x for foreign material."""
    try:
        value = float(grade.replace(",", "."))
    except ValueError:
        return ""
    return str(int(value >= 1)) if value in (0, 1, 2, 3) else ""


def rows_of_entry(rows: Mapping[str, dict[int, dict[str, str]]], entry: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Rows of an entry of a datalist by label, found by the names of its files; empty where the table lacks it.

    Args:
        rows: see ``rows_by_case``.
        entry: case of a datalist with absolute paths.
    """
    for file in (Path(entry[key]) for key in ("vertebrae", "label", "image") if entry.get(key)):
        name, folder = stem(file), file.parent.name
        of_part = f"{file.parent.parent.name}/{name}"  # of a part of a built set
        found = next((rows[n] for n in (of_part, f"{folder}/{name}", name, folder) if rows.get(n)), None)  # p1/ct.nii.gz is p1
        if found:
            return found
    return {}


def rows_of_name(rows: Mapping[str, dict[int, dict[str, str]]], names: Sequence[str]) -> dict[int, dict[str, str]]:
    """Rows of the one case of a table that has a name but for endings; empty without any, or with several.

    Args:
        rows: see ``rows_by_case``.
        names: names without endings.
    """
    # A case of a part is also found without its part.
    found = {id(of_case): of_case for case, of_case in rows.items() if {without_endings(case), case_name(case)} & set(names)}
    return next(iter(found.values())) if len(found) == 1 else {}


def rows_by_case(table: str | Path | None) -> dict[str, dict[int, dict[str, str]]]:
    """Rows of ``vertebrae.csv`` by case and label; empty without a table.

    A case ``part/case`` of a set built from several parts is also found as ``case``, unless another part has that name.
    """
    rows: dict[str, dict[int, dict[str, str]]] = defaultdict(dict)
    for row in read_vertebra_table(table) if table is not None else []:
        rows[row["case"]][int(row["label"])] = row
    names = Counter(case.rpartition("/")[2] for case in rows)
    rows.update({case.rpartition("/")[2]: rows[case] for case in list(rows) if names[case.rpartition("/")[2]] == 1})
    return rows
