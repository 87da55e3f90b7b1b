# SPDX-License-Identifier: Apache-2.0
"""Vertebra masks and a table of grades as training labels: 1 for fractured vertebrae, 255 where the grade is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.vertebrae import LEVELS, spine_order, voxels_per_label
from ...io.formats import SLICES, file_suffix
from ...io.label_maps import read_label_map
from ..case_table import TableCase
from ..datalist import IGNORE_INDEX
from .conversion import ConvertedCase, require_same_grid
from .grades import SACRUM, VertebraGrade, fracture_mask, grade_attributes
from .verse import unlabelled_bone

COCCYX = 27  # of VerSe, no vertebra here
UNLISTED = ("intact", "ignore")


def read_vertebra_mask(path: Path) -> nib.Nifti1Image:
    """Read a mask of vertebra instances in VerSe's labels, or a folder of TotalSegmentator.

    Raises:
        ValueError: for a mask that cannot be read, is empty, or has other labels.
    """
    mask = read_label_map(path)
    present = voxels_per_label(np.asarray(mask.dataobj))
    if not present:
        raise ValueError(f"{path}: contains no vertebra; segment the vertebrae, or exclude the case")
    foreign = [v for v in present if v not in LEVELS and v != COCCYX]
    if foreign:
        raise ValueError(
            f"{path}: contains the labels {foreign}; must be VerSe's, C1-C7 1-7, T1-T12 8-19, L1-L6 20-25, S1 26, T13 28 "
            "(of TotalSegmentator use its folder of one mask per vertebra)"
        )
    return mask


def case_grades(vertebrae: nib.Nifti1Image, mask: Path, rows: TableCase, table: Path, unlisted: str) -> dict[int, VertebraGrade]:
    """Grade of every vertebra of a mask, without those whose grade is unknown.

    Args:
        vertebrae: VerSe labels (X, Y, Z).
        mask: its file, for messages.
        rows: rows of the case.
        table: their file, for messages.
        unlisted: vertebrae without a row: "intact", or "ignore" for unknown.

    Raises:
        ValueError: for a fractured vertebra that the mask lacks.
    """
    present = spine_order(np.asarray(vertebrae.dataobj))
    for vertebra, grade in rows.grades.items():
        if grade.grade and vertebra not in present:
            raise ValueError(
                f"{table}: row {grade.row}: {LEVELS[vertebra]} has grade {grade.grade}, but is not in {mask} "
                f"({', '.join(LEVELS[v] for v in present)}); correct the level, or the mask"
            )
    grades = {v: VertebraGrade(g.grade, g.shape) for v, g in rows.grades.items() if v in present}
    if rows.intact or unlisted == "intact":
        grades = {v: VertebraGrade(0) for v in present if v != SACRUM} | grades
    return grades


def label_graded_case(
    image: nib.Nifti1Image, image_path: Path, mask: Path, rows: TableCase, table: Path, unlisted: str, min_grade: int
) -> ConvertedCase:
    """Training label of a case from its vertebra mask and its rows.

    Dense bone beyond the outermost vertebrae of a mask, which may be a vertebra that the border cuts, is ignored as in VerSe.

    Args:
        image: CT (X, Y, Z).
        image_path: its file.
        mask: file or folder of the vertebra mask on the grid of the image.
        rows: rows of the case.
        table: their file, for messages.
        unlisted: see ``case_grades``.
        min_grade: smallest grade that counts as a fracture.

    Raises:
        ValueError: for a mask of another grid, other labels, or without a vertebra that has a grade.
    """
    vertebrae = read_vertebra_mask(mask)
    is_slice = image_path.is_file() and file_suffix(image_path) in SLICES
    if is_slice and vertebrae.shape == image.shape:
        vertebrae = nib.Nifti1Image(np.asarray(vertebrae.dataobj), image.affine)  # PNG and TIFF images have no pixel size
    require_same_grid(mask, image, vertebrae)
    grades = case_grades(vertebrae, mask, rows, table, unlisted)
    label = fracture_mask(np.asarray(vertebrae.dataobj), grades, min_grade)
    assert label is not None  # None is the answer to drop-case alone
    if not is_slice:
        label[unlabelled_bone(image, vertebrae) & (label == 0)] = IGNORE_INDEX
    return ConvertedCase(nib.Nifti1Image(label, vertebrae.affine), vertebrae, attributes=grade_attributes(grades, min_grade))


def unlisted_vertebrae(option: str | None, lists_intact: bool) -> tuple[str, str]:
    """Rule for vertebrae without a row, and a line that states it.

    Args:
        option: rule that the user named, or None: a table with grade 0 lists intact vertebrae too, so that the others are unknown;
            in a list of fractures alone the others are intact.
        lists_intact: whether the table has grade 0 for some vertebra.
    """
    rule = option or ("ignore" if lists_intact else "intact")
    reason = "" if option else f", as the table {'has rows of intact ones' if lists_intact else 'lists fractures alone'}"
    meaning = "unknown (255)" if rule == "ignore" else "intact"
    return (rule, f"vertebrae without a row are taken as {meaning}{reason}; --unlisted {UNLISTED[rule == 'intact']} changes it")


def attributes_of(rows: Mapping[str, TableCase], name: str) -> list:
    """Content of the rows of a case that decides its label, for the comparison with a finished case."""
    case = rows[name]
    return [case.intact, sorted((v, g.grade, g.shape) for v, g in case.grades.items())]
