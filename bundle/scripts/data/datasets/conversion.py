# SPDX-License-Identifier: Apache-2.0
"""What all adapters of public sets share: write labels, table of vertebrae and datalist; one bad case costs only itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...core.errors import InputError
from ...core.files import atomic_write, write_table, write_text
from ...core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ...core.vertebrae import LEVELS, voxels_per_label
from ..datalist import split_by_patient, write_datalist
from .grades import VertebraGrade

COLUMNS = ("case", "label", "level", "fractured", "grade", "shape", "volume_ml")
IGNORE = 255  # voxels that neither loss nor metrics may judge


@dataclass
class ConvertedCase:
    """What an adapter makes of a scan; every image lies on the grid of the CT.

    Attributes:
        label: training label, or None for a set without one.
        vertebrae: vertebra instances, VerSe labels, or None.
        image: CT to write, or None when it stays where it is.
        rows: one row of ``COLUMNS`` per vertebra.
    """

    label: nib.Nifti1Image | None = None
    vertebrae: nib.Nifti1Image | None = None
    image: nib.Nifti1Image | None = None
    rows: list[dict] = field(default_factory=list)


@dataclass
class SourceCase:
    """One scan of a source.

    Attributes:
        name: case, unique in the source.
        patient: patient; all scans of a patient go to one side of a split.
        image: CT file or folder.
        make: reads the case; None leaves it out without a complaint, an exception with one.
        listed: False keeps the case out of the datalist, as ``image`` is a mask that has no CT.
    """

    name: str
    patient: str
    image: Path
    make: Callable[[], ConvertedCase | None]
    listed: bool = True


def integer_labels(path: Path) -> nib.Nifti1Image:
    """Read a label image of any numeric type; values must be whole numbers from 0 to 255.

    Raises:
        ValueError: when they are not.
    """
    image = nib.load(path)
    data = np.asanyarray(image.dataobj)
    low, high = data.min(initial=0), data.max(initial=0)
    if not np.isfinite(high - low):
        raise ValueError(f"{path}: holds fractions or NaN; a mask of vertebrae holds whole numbers")
    if low < -0.5 or high > 255.5:
        raise ValueError(f"{path}: holds values from {low:g} to {high:g}; vertebra labels lie between 0 and 255")
    if data.dtype == np.uint8:
        return nib.Nifti1Image(data, image.affine)
    whole = np.empty(data.shape, np.uint8)
    # Slab by slab: a mask of floating point takes eight times the memory of its labels.
    for k in range(data.shape[-1]):
        slab = np.rint(data[..., k])
        if np.abs(data[..., k] - slab).max(initial=0) > 1e-3:
            raise ValueError(f"{path}: holds fractions or NaN; a mask of vertebrae holds whole numbers")
        whole[..., k] = slab
    return nib.Nifti1Image(whole, image.affine)


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
    value = np.zeros(256, np.uint8)
    for label in voxels_per_label(vertebrae):
        grade = grades[label].grade if label in grades else None
        if grade is None and label in LEVELS and label != 26:
            if unknown == "drop-case":
                return None
            value[label] = IGNORE if unknown == "ignore" else 0
        elif grade is not None and grade >= min_grade:
            value[label] = 1
    return value[vertebrae]


def table_rows(
    case: str, vertebrae: nib.Nifti1Image, grades: Mapping[int, VertebraGrade], min_grade: int = 1
) -> list[dict]:
    """One row per labelled vertebra; whether it is fractured, and its grade, are blank where that is unknown."""
    voxel_ml = abs(float(np.linalg.det(vertebrae.affine[:3, :3]))) / 1000
    rows = []
    for label, count in voxels_per_label(np.asarray(vertebrae.dataobj)).items():
        if label not in LEVELS:
            continue
        given = grades.get(label)
        grade = given.grade if given is not None else None
        rows.append(
            {
                "case": case,
                "label": label,
                "level": LEVELS[label],
                "fractured": "" if grade is None else int(grade >= min_grade),
                "grade": "" if grade is None else grade,
                "shape": given.shape if given is not None else "",
                "volume_ml": round(count * voxel_ml, 2),
            }
        )
    return rows


def _write(case: SourceCase, root: Path, record: Path) -> dict:
    """Write the files of a case, its record last: that marks it as finished."""
    made = case.make()
    if made is None:
        return {}
    files: dict[str, str] = {}
    fractured = False
    for key, folder, image in (
        ("image", "images", made.image),
        ("label", "labels", made.label),
        ("vertebrae", "vertebrae", made.vertebrae),
    ):
        if image is not None:
            files[key] = f"{folder}/{case.name}.nii.gz"
            image.header.set_xyzt_units("mm")
            with atomic_write(root / files[key]) as temporary:
                nib.save(image, temporary)
    if made.label is not None:
        fractured = bool((np.asarray(made.label.dataobj) == 1).any())
    content = {"files": files, "fractured": fractured, "rows": made.rows}
    write_text(record, json.dumps(content) + "\n")
    return content


def convert(
    cases: Sequence[SourceCase],
    out: str | Path,
    description: str,
    seed: int = 0,
    workers: int = 1,
    split: bool = True,
) -> tuple[Path, list[str]]:
    """Write ``labels/``, ``vertebrae/``, ``vertebrae.csv`` and ``datalist.json`` for the cases; finished cases are kept.

    CTs that can be used as they are stay where they are: the datalist points at them. Every case that fails gives one line and the
    others go on.

    Args:
        cases: scans.
        out: folder to write to.
        description: goes into the datalist.
        seed: of the split.
        workers: cases at a time.
        split: False puts every case into the testing section.

    Returns:
        Path of the datalist, or of the table of vertebrae when no case has an image, and one line per failed case.

    Raises:
        InputError: when no case is left.
    """
    root = Path(out).resolve()

    def run(case: SourceCase) -> dict | str:
        record = root / "cases" / f"{case.name}.json"
        try:
            if record.is_file():
                return json.loads(record.read_text(encoding="utf-8"))
            return _write(case, root, record)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            line = line if str(case.image) in line else f"{case.image}: {line}"
            tqdm.write(f"left out: {line}")
            return line

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        results = list(tqdm(pool.map(run, cases), total=len(cases), desc="cases", unit="case"))
    problems = [r for r in results if isinstance(r, str)]
    done = [(c, r) for c, r in zip(cases, results, strict=True) if isinstance(r, dict) and r]
    if not done:
        raise InputError(problems[0] if problems else f"{out}: no case is left to write")
    rows = [row for _, r in done for row in r["rows"]]
    if rows:
        write_table(root / "vertebrae.csv", rows, COLUMNS)
    done = [(c, r) for c, r in done if c.listed]
    if not done:
        return root / "vertebrae.csv", problems
    entries = [{"image": os.path.relpath(c.image, root), **r["files"], "patient": c.patient} for c, r in done]
    if split:
        parts = split_by_patient([e["patient"] for e in entries], [r["fractured"] for _, r in done], seed)
        sections = {s: [entries[i] for i in part] for s, part in parts.items()}
    else:
        sections = {"testing": entries}
    write_datalist(root / "datalist.json", sections, description)
    return root / "datalist.json", problems


def finish(path: Path, problems: Sequence[str], cases: int) -> str:
    """Return the path of a finished datalist, or end with an error that says how many cases it lacks."""
    if problems:
        raise InputError(f"{len(problems)} of {cases} cases were left out, see above; the others are in {path}")
    return str(path)


def require_same_grid(ct: Path, vertebrae: nib.Nifti1Image) -> nib.Nifti1Image:
    """Return the CT when the vertebrae lie on its grid.

    Raises:
        ValueError: when they do not.
    """
    image = nib.load(ct)
    reason = same_grid(image, vertebrae)
    if reason:
        raise ValueError(f"{ct}: {reason}; resample the mask to the grid of the CT")
    return image
