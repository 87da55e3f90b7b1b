# SPDX-License-Identifier: Apache-2.0
"""What all adapters of public sets share: write labels, table of vertebrae and datalist; one bad case costs only itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..errors import InputError
from ..files import read_table, replacing, write_table
from .anatomy import LEVELS
from .checks import AFFINE_TOLERANCE_MM, grid_offset
from .datalist import split_by_patient, write_datalist
from .grades import VertebraGrade

COLUMNS = ("case", "label", "level", "grade", "shape", "volume_ml")
IGNORE = 255  # voxels that neither loss nor metrics may judge


@dataclass
class SourceCase:
    """One scan of a public set.

    Attributes:
        name: case, unique in the set.
        patient: patient; all scans of a patient go to one side of a split.
        image: CT file.
        vertebrae: gives the vertebra instances, VerSe labels, as an integer NIfTI image on the grid of the CT.
        grades: Genant grade per vertebra label; empty when the set has none.
    """

    name: str
    patient: str
    image: Path
    vertebrae: Callable[[], nib.Nifti1Image]
    grades: Mapping[int, VertebraGrade] = field(default_factory=dict)


def integer_labels(path: Path) -> nib.Nifti1Image:
    """Read a label image of any numeric type; values must be whole numbers from 0 to 255.

    Raises:
        ValueError: when they are not.
    """
    image = nib.load(path)
    data = np.asanyarray(image.dataobj)
    rounded = np.rint(data)
    if not np.all(np.isfinite(data)) or np.abs(data - rounded).max(initial=0) > 1e-3:
        raise ValueError(f"{path}: holds fractions or NaN; a mask of vertebrae holds whole numbers")
    if rounded.min(initial=0) < 0 or rounded.max(initial=0) > 255:
        raise ValueError(f"{path}: holds values up to {rounded.max():g}; vertebra labels lie between 0 and 255")
    return nib.Nifti1Image(rounded.astype(np.uint8), image.affine)


def same_grid(image: nib.Nifti1Image, labels: nib.Nifti1Image) -> str | None:
    """Return why two images do not share a grid, or None."""
    if image.shape[:3] != labels.shape[:3]:
        return f"mask has shape {labels.shape[:3]} and CT {image.shape[:3]}"
    off = grid_offset(image.shape[:3], image.affine, labels.affine)
    return f"mask lies up to {off:.2f} mm off the CT" if off > AFFINE_TOLERANCE_MM else None


def fracture_mask(
    vertebrae: NDArray[np.uint8],
    grades: Mapping[int, VertebraGrade],
    min_grade: int = 1,
    unknown: str = "ignore",
) -> NDArray[np.uint8] | None:
    """Make the training label: 1 where the grade is at least ``min_grade``, 0 elsewhere.

    Args:
        vertebrae: VerSe labels.
        grades: grade per label; a label that is missing, or whose grade is None, is unknown.
        min_grade: smallest grade that counts as a fracture.
        unknown: "ignore" gives unknown vertebrae 255, "background" 0; "drop-case" gives None when there is one.
    """
    mask = np.zeros(vertebrae.shape, np.uint8)
    for label in np.unique(vertebrae[vertebrae > 0]).tolist():
        grade = grades[label].grade if label in grades else None
        if grade is None and label in LEVELS and label != 26:
            if unknown == "drop-case":
                return None
            mask[vertebrae == label] = IGNORE if unknown == "ignore" else 0
        elif grade is not None and grade >= min_grade:
            mask[vertebrae == label] = 1
    return mask


def table_rows(case: SourceCase, vertebrae: nib.Nifti1Image) -> list[dict]:
    """One row per labelled vertebra; the grade is blank where it is unknown."""
    voxel_ml = abs(float(np.linalg.det(vertebrae.affine[:3, :3]))) / 1000
    labels, counts = np.unique(np.asarray(vertebrae.dataobj), return_counts=True)
    rows = []
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        if label == 0 or label not in LEVELS:
            continue
        grade = case.grades.get(label)
        known = grade is not None and grade.grade is not None
        rows.append(
            {
                "case": case.name,
                "label": label,
                "level": LEVELS[label],
                "grade": grade.grade if grade is not None and known else "",
                "shape": grade.shape if grade is not None else "",
                "volume_ml": round(count * voxel_ml, 2),
            }
        )
    return rows


def convert(
    cases: Sequence[SourceCase],
    out: str | Path,
    make_mask: Callable[[SourceCase, nib.Nifti1Image, nib.Nifti1Image], NDArray[np.uint8] | None],
    description: str,
    seed: int = 0,
    min_grade: int = 1,
) -> tuple[Path, list[str]]:
    """Write ``labels/``, ``vertebrae/``, ``vertebrae.csv`` and ``datalist.json`` for the cases; finished cases are kept.

    The CTs stay where they are: the datalist points at them. Every case that fails gives one line and the others go on.

    Args:
        cases: scans.
        out: folder to write to.
        make_mask: gives the label of a case from case, CT and vertebrae, or None to leave the case out.
        description: goes into the datalist.
        seed: of the split.
        min_grade: smallest grade that makes a case fractured when the split spreads fractured cases.

    Returns:
        Path of the datalist and one line per failed case.

    Raises:
        InputError: when no case is left.
    """
    root = Path(out).resolve()
    rows: list[dict] = []
    entries: list[dict[str, str]] = []
    fractured: list[bool] = []
    problems: list[str] = []
    for case in tqdm(cases, desc="cases", unit="case"):
        label_file, vertebra_file = root / "labels" / f"{case.name}.nii.gz", root / "vertebrae" / f"{case.name}.nii.gz"
        part = root / "vertebrae" / f"{case.name}.csv"
        try:
            if not part.is_file():
                image, vertebrae = nib.load(case.image), case.vertebrae()
                reason = same_grid(image, vertebrae)
                if reason:
                    raise ValueError(f"{case.image}: {reason}; resample the mask to the grid of the CT")
                mask = make_mask(case, image, vertebrae)
                if mask is None:
                    continue
                for array, file in ((np.asarray(vertebrae.dataobj), vertebra_file), (mask, label_file)):
                    with replacing(file) as temporary:
                        nib.save(nib.Nifti1Image(array, vertebrae.affine), temporary)
                write_table(part, table_rows(case, vertebrae), COLUMNS)  # last: it marks the case as finished
            case_rows = read_table(part)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            problems.append(line if str(case.image) in line else f"{case.image}: {line}")
            tqdm.write(f"left out: {problems[-1]}")
            continue
        rows.extend(case_rows)
        entries.append(
            {
                "image": os.path.relpath(case.image, root),
                "label": f"labels/{case.name}.nii.gz",
                "vertebrae": f"vertebrae/{case.name}.nii.gz",
                "patient": case.patient,
            }
        )
        fractured.append(any(int(r["grade"] or 0) >= min_grade for r in case_rows))
    if not entries:
        raise InputError(problems[0] if problems else f"{out}: no case is left to write")
    write_table(root / "vertebrae.csv", rows, COLUMNS)
    split = split_by_patient([e["patient"] for e in entries], fractured, seed)
    write_datalist(root / "datalist.json", {s: [entries[i] for i in part] for s, part in split.items()}, description)
    return root / "datalist.json", problems
