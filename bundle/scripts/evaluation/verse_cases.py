# SPDX-License-Identifier: Apache-2.0
"""Cases of a benchmark on VerSe: CT, mask of vertebrae, grades and split, with the reason where a case cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib

from ..core.errors import InputError, first_line
from ..core.vertebrae import LABELS, LEVELS
from ..data.datalist import SECTIONS
from ..data.datasets.conversion import require_same_grid
from ..data.datasets.grades import VertebraGrade, read_grades, read_splits, split_of
from ..data.datasets.verse import require_cases

SPLITS = (*SECTIONS, "all")
NO_FILE, NO_CT, NO_MASK, NO_GRADES = REASONS = (
    "no file in the folder",
    "no CT",
    "no mask of vertebrae",
    "no row in the table of grades",
)
ACCOUNT_COLUMNS = (
    "case", "patient", "split", "used", "reason", "ct", "mask",
    "in_mask", "graded", "foreign_material", "ungraded", "graded_not_in_mask",
)  # fmt: skip


@dataclass
class BenchmarkCase:
    """One scan of VerSe.

    Attributes:
        name: case, such as "sub-verse007".
        patient: patient, such as "sub-verse007" of "sub-verse007_split-verse012".
        split: "training", "validation", "testing", or "" for unknown.
        ct: CT, or None.
        mask: mask of vertebrae in VerSe's labels, or None.
        grades: Genant grades by label; None for a case without a row in the table.
        reason: one line for a case that is left out; "" for one in use.
        labels: vertebrae of the mask but S1, once it was read.
    """

    name: str
    patient: str
    split: str
    ct: Path | None
    mask: Path | None
    grades: Mapping[int, VertebraGrade] | None
    reason: str = ""
    labels: list[int] = field(default_factory=list)

    def _by_grade(self) -> tuple[list[int], list[int], list[int]]:
        """Labels of the mask with a grade, with foreign material, and without a grade."""
        grades = self.grades or {}
        graded = [v for v in self.labels if v in grades and grades[v].grade is not None]
        foreign = [v for v in self.labels if v in grades and grades[v].grade is None]
        return graded, foreign, [v for v in self.labels if v not in grades]

    def row(self) -> dict[str, object]:
        """Row of ``ACCOUNT_COLUMNS``; numbers of vertebrae are those of cases in use."""
        row: dict[str, object] = {"case": self.name, "patient": self.patient, "split": self.split or "unknown"}
        row |= {"used": int(not self.reason), "reason": self.reason, "ct": self.ct or "", "mask": self.mask or ""}
        if self.reason:
            return row
        graded, foreign, ungraded = self._by_grade()
        absent = [v for v, g in (self.grades or {}).items() if g.grade is not None and v not in self.labels]
        row |= {"in_mask": len(self.labels), "graded": len(graded), "foreign_material": len(foreign), "ungraded": len(ungraded)}
        return row | {"graded_not_in_mask": " ".join(LEVELS[v] for v in sorted(absent))}

    def set_labels(self, labels: Sequence[int]) -> None:
        """Note the vertebrae of the mask; S1 and values that are no vertebra are left out."""
        self.labels = [v for v in labels if v in LEVELS and v != LABELS["S1"]]


def _split(file: Path, root: Path) -> str:
    """Split that the innermost named folder between a file and the root stands for; "" for none."""
    folders = file.parent.relative_to(root).parts[::-1]
    return next((s for part in folders if (s := split_of(part))), "")


def _reason(case: BenchmarkCase) -> str:
    """One line for a case that cannot be used; "" for one that can."""
    if case.ct is None and case.mask is None:
        return NO_FILE
    if case.ct is None:
        return NO_CT
    if case.mask is None:
        return NO_MASK
    if case.grades is None:
        return NO_GRADES
    try:
        require_same_grid(case.ct, nib.load(case.ct), nib.load(case.mask))
    except Exception as error:  # a damaged header costs one case
        return first_line(error)
    return ""


def find_benchmark_cases(folder: str, grades: str, split: str = "testing") -> list[BenchmarkCase]:
    """Find the cases of one split of VerSe.

    The split of a case is that of the innermost folder with such a name (dataset-verse19test, 01_training, validation), else the
    column ``dataset`` of the table, else that of the name of ``folder``. Cases that the table lists and the folder lacks are
    returned with that reason.

    Args:
        folder: VerSe tree, subject based, at any depth.
        grades: appendix E1 of Löffler et al. 2020, .xlsx or .csv.
        split: one of ``SPLITS``.

    Returns:
        Cases of the split by name, at least one of them usable.

    Raises:
        InputError: for a missing folder or table, an unknown split, and when no case can be used.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        raise InputError(f"{folder}: no such folder; expected the folder of the VerSe tree")
    if split not in SPLITS:
        raise InputError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    images, masks = require_cases(root)
    table, listed = read_grades(grades), read_splits(grades)
    cases = []
    for name in sorted({*images, *masks, *table}):
        files = [f[name] for f in (images, masks) if name in f]
        own = next((s for f in files if (s := _split(f, root))), "") or listed.get(name, "")
        own = own or (split_of(root.name) if files else "")
        cases.append(BenchmarkCase(name, name.split("_")[0], own, images.get(name), masks.get(name), table.get(name)))
    found = [c for c in cases if c.ct or c.mask]
    chosen = [c for c in cases if split in ("all", c.split)]
    for case in chosen:
        case.reason = _reason(case)
    if any(not c.reason for c in chosen):
        return chosen
    present = [c for c in chosen if c.ct or c.mask]
    if present:
        raise InputError(
            f"{folder}: none of {len(present)} case(s) of split {split!r} has CT, mask and grades ({present[0].name}: "
            f"{present[0].reason}); complete the download, or choose another table"
        )
    counts = {s or "unknown": sum(c.split == s for c in found) for s in (*SECTIONS, "")}
    there = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    raise InputError(f"{folder}: has no case of split {split!r}, but {there}; choose another with --split ({', '.join(SPLITS)})")


def data_hash(cases: Sequence[BenchmarkCase]) -> str:
    """SHA-256 of names, file sizes and grades of cases: equal for equal downloads, wherever they lie, and for .xlsx and .csv."""
    facts = [
        (c.name, [(f.name, f.stat().st_size) for f in (c.ct, c.mask) if f], sorted((c.grades or {}).items()))
        for c in sorted(cases, key=lambda c: c.name)
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
