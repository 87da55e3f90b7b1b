# SPDX-License-Identifier: Apache-2.0
"""RSNA 2022 cervical spine: fractured levels of a patient joined with vertebra masks, CT from DICOM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray

from ...core.errors import InputError
from ...core.files import read_table
from ...core.vertebrae import LABELS, voxels_per_label
from ...io.dicom import read_series
from ...io.formats import stem
from ...io.label_maps import read_label_map
from ..datalist import IGNORE_INDEX
from .conversion import ConvertedCase, SourceCase, begin_dataset, convert, grid_mismatch, map_labels

CERVICAL = [f"C{i}" for i in range(1, 8)]


def read_train_table(path: Path) -> dict[str, dict[int, bool]]:
    """Read ``train.csv``: fracture by cervical vertebra for every study.

    Raises:
        InputError: when the file is missing or is another table.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table; expected a folder with train.csv, train_images/ and segmentations/")
    studies: dict[str, dict[int, bool]] = {}
    for number, row in enumerate(read_table(path), start=2):
        if not {"StudyInstanceUID", *CERVICAL} <= set(row):
            raise InputError(f"{path}: lacks StudyInstanceUID or C1 to C7; is it train.csv of RSNA 2022?")
        values = {level: (row[level] or "").strip() for level in CERVICAL}
        invalid = [f"{k}={v!r}" for k, v in values.items() if v not in ("0", "1")]
        if invalid:
            raise InputError(f"{path}: row {number} has {invalid[0]}; a level must be 0 or 1")
        studies[row["StudyInstanceUID"]] = {LABELS[level]: v == "1" for level, v in values.items()}
    if not studies:
        raise InputError(f"{path}: contains no study; is it train.csv of RSNA 2022?")
    return studies


def to_grid(labels: nib.Nifti1Image, ct: nib.Nifti1Image) -> nib.Nifti1Image:
    """Bring sagittal labels to the grid of an axial CT: by reorientation where that suffices, else by nearest neighbour.

    Raises:
        ValueError: when less than 80 % of the labelled volume is inside the CT.
    """
    reoriented = labels.as_reoriented(ornt_transform(io_orientation(labels.affine), io_orientation(ct.affine)))
    if grid_mismatch(ct, reoriented) is None:
        return nib.Nifti1Image(np.asarray(reoriented.dataobj), ct.affine)
    from nibabel.processing import resample_from_to

    resampled = resample_from_to(labels, ct, order=0)
    before, after = (np.count_nonzero(np.asarray(i.dataobj)) * abs(np.linalg.det(i.affine[:3, :3])) for i in (labels, resampled))
    if after < 0.8 * before:
        raise ValueError(
            f"only {after / 1000:.0f} of {before / 1000:.0f} ml of labelled vertebrae are inside the CT; "
            "mask and CT must be of the same study"
        )
    return nib.Nifti1Image(np.asarray(resampled.dataobj).astype(np.uint8), ct.affine)


def level_mask(vertebrae: NDArray[np.uint8], fractured: Mapping[int, bool]) -> NDArray[np.uint8]:
    """Training label (X, Y, Z): 1 for fractured levels, 0 for intact ones, 255 for levels that the table does not list."""
    return map_labels(vertebrae, {v: int(fractured.get(v, IGNORE_INDEX)) for v in voxels_per_label(vertebrae)})


def _convert_case(images: Path, mask: Path, fractured: Mapping[int, bool]) -> ConvertedCase:
    if not images.is_dir():
        raise ValueError(f"{images}: no such folder; download the images of this study")
    ct, _ = read_series(images)
    vertebrae = to_grid(read_label_map(mask), ct)
    label = nib.Nifti1Image(level_mask(np.asarray(vertebrae.dataobj), fractured), ct.affine)
    return ConvertedCase(label, vertebrae, ct, {v: {"fractured": int(flag)} for v, flag in fractured.items()})


def rsna(source: str, out: str, seed: int = 0, workers: int = 1) -> str:
    """Make a fracture data set from RSNA 2022 cervical spine: the studies that have vertebra masks.

    Label 1 is every cervical vertebra that is fractured according to train.csv, as a whole: the set does not outline fractures,
    and a fracture may be in any part of the vertebra. Thoracic vertebrae are not graded there and are 255 (ignore), which loss and
    metrics leave out. Writes images/ (CT as NIfTI, slices ordered by position), labels/, vertebrae/, vertebrae.csv and
    datalist.json (70/10/20) into OUT. Unreadable studies are reported and skipped; rerun the same command to resume.

    Args:
        source: folder with train.csv, train_images/ and segmentations/.
        out: folder to write to.
        seed: seed of the split.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    root = Path(source)
    studies = read_train_table(root / "train.csv")
    masks = {stem(f): f for f in sorted((root / "segmentations").glob("*.nii*"))}
    if not masks:
        raise InputError(f"{root / 'segmentations'}: contains no .nii; only studies with vertebra masks can be used")
    for uid in sorted(set(masks) - set(studies)):
        print(f"{masks[uid]}: {uid} is not in train.csv; skipped")
    names = sorted(set(masks) & set(studies))
    if not names:
        raise InputError(f"{root / 'train.csv'}: no row matches a mask (first mask: {sorted(masks)[0]}); is it the right table?")
    begin_dataset(out, {"source": str(root.resolve())})
    cases = []
    for uid in names:
        images = root / "train_images" / uid
        make = partial(_convert_case, images, masks[uid], studies[uid])
        grades = json.dumps(sorted(studies[uid].items()))
        cases.append(SourceCase(uid, uid, images, make, settings=grades, masks=[masks[uid]]))
    return convert(cases, out, "RSNA 2022 cervical spine: fractured levels.", seed, workers)
