# SPDX-License-Identifier: Apache-2.0
"""Which prediction belongs to which reference, and reading both so that only what can be compared is compared."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.files import read_table
from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..core.vertebrae import voxels_per_label
from ..data.datalist import load_datalist
from ..io.formats import ending, read_volume, stem

# Endings that tools give to masks and scans; they do not count when names are compared.
ENDING = re.compile(
    r"([-_.](ct|image|img|seg|mask|msk|label|labels|gt|pred|prediction|fracture)|_000\d)$",
    re.IGNORECASE,  # _0000: nnU-Net's channel
)


@dataclass
class ScoringCase:
    """One case to score.

    Attributes:
        case: name.
        patient: patient.
        prediction: file of the prediction.
        reference: file of the reference.
        vertebrae: file of vertebra instances, or None.
        probability: file of probabilities, or None.
        image: file of the CT, or None.
        rows: rows of ``vertebrae.csv`` by label.
    """

    case: str
    patient: str
    prediction: Path
    reference: Path
    vertebrae: Path | None = None
    probability: Path | None = None
    image: Path | None = None
    rows: dict[int, dict[str, str]] = field(default_factory=dict)


def bare(path: Path | str) -> str:
    """Name of a scan or mask without its ending and without what tools append."""
    name = stem(path)
    while ENDING.search(name):
        name = ENDING.sub("", name)
    return name


def masks_by_name(folder: str | Path) -> tuple[dict[str, Path], list[str]]:
    """Files of a folder by bare name, and one line for each name that two files share; such files are left out.

    A folder that holds no file of its own but folders, one for each case as MONAI's savers and TotalSegmentator write them, is
    searched through; files of one name, such as ``s1/bone.nii.gz`` and ``s2/bone.nii.gz``, then go by the names of their folders.

    Raises:
        InputError: when the folder is missing or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds the masks")
    files = [f for f in sorted(root.iterdir()) if _is_mask(f)]
    found = _group(files, bare)
    if not files:
        for nested in _group([f for f in sorted(root.rglob("*")) if _is_mask(f)], bare).values():
            for name, same in _group(nested, _folder_name if len(nested) > 1 else bare).items():
                found[name] += same
    if not found:
        raise InputError(f"{root}: holds no mask (NIfTI, NRRD, MHA, PNG); give the folder that holds them")
    twice = [
        f"{same[0]}: has the name of {same[1].relative_to(root)} (endings do not count); rename one, neither is scored"
        for same in found.values()
        if len(same) > 1
    ]
    return {name: same[0] for name, same in found.items() if len(same) == 1}, twice


def _folder_name(file: Path) -> str:
    return bare(file.parent.name)


def _is_mask(file: Path) -> bool:
    return bool(ending(file)) and not file.name.startswith(".") and file.is_file()


def _group(files: Sequence[Path], name: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        groups[name(file)].append(file)
    return groups


def _references(source: str, section: str) -> tuple[list[dict[str, str]], list[str]]:
    """Cases of a datalist or a folder, each with ``case``, ``reference`` and what else is known."""
    path = Path(source)
    if path.is_dir() and (path / "datalist.json").is_file():
        path = path / "datalist.json"
    if path.suffix != ".json":
        files, problems = masks_by_name(path)
        return [{"case": name, "reference": str(file)} for name, file in files.items()], problems
    cases = [c for c in load_datalist(str(path), section) if c.get("label")]
    if not cases:
        raise InputError(f"{path}: section {section!r} holds no case with a label; choose another with --section")
    return [{**c, "case": stem(c["label"]), "reference": c["label"]} for c in cases], []


def vertebra_rows(table: str | Path | None) -> dict[str, dict[int, dict[str, str]]]:
    """Rows of ``vertebrae.csv`` by case and label; empty without a table.

    A set built from several parts writes ``part/case``; its cases are found by the name alone, too, where no other part has it.
    """
    rows: dict[str, dict[int, dict[str, str]]] = defaultdict(dict)
    if table is not None:
        for row in read_table(table):
            rows[row["case"]][int(row["label"])] = row
        names = Counter(case.rpartition("/")[2] for case in rows)
        rows.update({case.rpartition("/")[2]: rows[case] for case in list(rows) if names[case.rpartition("/")[2]] == 1})
    return rows


def find_jobs(
    predictions: str,
    references: str,
    section: str = "testing",
    vertebrae: str | None = None,
    probabilities: str | None = None,
    table: str | None = None,
    patient: str | None = None,
) -> tuple[list[ScoringCase], list[str]]:
    """Pair predictions with references.

    Args:
        predictions: folder of masks.
        references: folder of masks, or a datalist, whose cases bring patient, vertebrae and image along.
        section: section of the datalist.
        vertebrae: folder of vertebra instances, for references in a folder.
        probabilities: folder of probability maps.
        table: ``vertebrae.csv``; beside a datalist it is found by itself.
        patient: regular expression on the case name whose match is the patient, for references in a folder.

    Returns:
        Jobs, and one line per reference without a prediction and per ambiguous name.
    """
    cases, problems = _references(references, section)
    made, twice = masks_by_name(predictions)
    problems += twice
    beside = Path(references).parent if Path(references).is_file() else Path(references)
    if table is None and (beside / "vertebrae.csv").is_file():
        table = str(beside / "vertebrae.csv")
    rows = vertebra_rows(table)
    extra = {k: masks_by_name(v)[0] if v else {} for k, v in (("vertebrae", vertebrae), ("probability", probabilities))}
    jobs, used = [], set()
    for case in cases:
        names = [bare(case["reference"]), *([bare(case["image"])] if case.get("image") else [])]
        name = next((n for n in names if n in made), None)
        if name is None:
            problems.append(
                f"{case['reference']}: has no prediction in {predictions} (looked for {' and '.join(dict.fromkeys(names))})"
            )
            continue
        if name in used:
            problems.append(
                f"{case['reference']}: shares the prediction {made[name]} with another reference; rename one"
            )
            continue
        used.add(name)
        instances = case.get("vertebrae") or extra["vertebrae"].get(names[0])
        found = re.search(patient, case["case"]) if patient else None
        jobs.append(
            ScoringCase(
                case["case"],
                str(case.get("patient") or (found[0] if found else case["case"])),
                made[name],
                Path(case["reference"]),
                Path(instances) if instances else None,
                extra["probability"].get(name),
                Path(case["image"]) if case.get("image") else None,
                rows.get(case["case"], {}),
            )
        )
    return jobs, problems


def read_mask(path: Path, values: Sequence[int] | None, others: Sequence[int] = ()) -> nib.Nifti1Image:
    """Read a mask of whole numbers as 0 and 1; ``others`` are kept.

    Args:
        path: file.
        values: values that become 1; None takes the only value besides 0 and ``others``.
        others: further values that may occur.

    Raises:
        ValueError: for probabilities, NaN and values nobody named; the message says what to do.
    """
    image = read_volume(path)
    data = np.asanyarray(image.dataobj)
    if data.dtype != np.uint8:
        if not np.isfinite(data.max(initial=0) - data.min(initial=0)):
            raise ValueError(f"{path}: holds NaN or infinite values; a mask holds whole numbers")
        if not np.array_equal(data, np.rint(data)):
            raise ValueError(
                f"{path}: holds fractions; threshold it to a mask, or give it as --probabilities beside one"
            )
    if data.min(initial=0) < 0 or data.max(initial=0) > 255:
        raise ValueError(f"{path}: holds values from {data.min()} to {data.max()}; a mask holds 0 to 255")
    data = data.astype(np.uint8, copy=False)
    present = [v for v in voxels_per_label(data) if v not in others]
    wanted = list(values) if values is not None else present[:1]
    unnamed = [v for v in present if v not in wanted]
    if unnamed:
        raise ValueError(
            f"{path}: holds the values {present}; name the fractures with --fractured (references) or --predicted (predictions)"
        )
    mask = np.isin(data, wanted).astype(np.uint8) if wanted else np.zeros(data.shape, np.uint8)
    for value in others:
        if 0 <= value <= 255:  # a value that no mask can hold, such as -1, says that nothing is to be kept
            mask[data == value] = value
    return nib.Nifti1Image(mask, image.affine)


def on_grid(image: nib.Nifti1Image, reference: nib.Nifti1Image, path: Path, resample: bool, order: int = 0) -> NDArray:
    """Voxels of an image on the grid of the reference.

    Raises:
        ValueError: when the grids differ and ``resample`` is off.
    """
    same = image.shape == reference.shape
    off = grid_offset(reference.shape, image.affine, reference.affine) if same else float("inf")
    if off <= AFFINE_TOLERANCE_MM:
        return np.asanyarray(image.dataobj)
    if not resample:
        what = (
            f"lies up to {off:.2f} mm off its reference"
            if same
            else f"has shape {image.shape} and its reference {reference.shape}"
        )
        raise ValueError(f"{path}: {what}; put it on that grid, or let --resample do it (nearest voxel)")
    from nibabel.processing import resample_from_to

    return np.asanyarray(resample_from_to(image, reference, order=order).dataobj)


def read_pair(
    job: ScoringCase,
    fractured: Sequence[int] | None = None,
    predicted: Sequence[int] | None = None,
    ignore_index: int = 255,
    resample: bool = False,
) -> tuple[nib.Nifti1Image, NDArray]:
    """Read the reference of a case, with 0, 1 and ``ignore_index``, and the prediction on its grid.

    Raises:
        ValueError: as ``read_mask`` and ``on_grid`` do.
    """
    reference = read_mask(job.reference, fractured, (ignore_index,))
    return reference, on_grid(read_mask(job.prediction, predicted), reference, job.prediction, resample)
