# SPDX-License-Identifier: Apache-2.0
"""Folders with one mask per vertebra, as TotalSegmentator writes them (doi:10.1148/ryai.230024)."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np

from ..core.vertebrae import LABELS

VERTEBRA_FILE = re.compile(r"^vertebrae_([CTLS]\d{1,2})\.nii(\.gz)?$")
SEGMENTATIONS = "segmentations"  # folder beside ct.nii.gz in TotalSegmentator's data set and output


def _has_vertebrae(folder: Path) -> bool:
    return folder.is_dir() and any(VERTEBRA_FILE.match(file.name) for file in folder.iterdir())


def vertebra_folder(path: Path | str) -> Path | None:
    """Folder of the files ``vertebrae_L1.nii.gz`` and the like: the path or its ``segmentations``; None where it is neither."""
    source = Path(path)
    return next((folder for folder in (source, source / SEGMENTATIONS) if _has_vertebrae(folder)), None)


def merge_vertebrae(folder: Path, empty: bool = False) -> nib.Nifti1Image:
    """Merge one mask per vertebra into an image of VerSe labels.

    Args:
        folder: folder with ``vertebrae_L1.nii.gz`` and the like.
        empty: True returns an empty image where every mask is empty, instead of an error.

    Returns:
        Labels (X, Y, Z), uint8, with the affine (R, A, S, mm) of the masks.

    Raises:
        ValueError: when there is no such mask, when masks have different grids, or when all are empty.
    """
    merged: np.ndarray | None = None
    affine = np.eye(4)
    for file in sorted(folder.glob("vertebrae_*.nii*")):
        match = VERTEBRA_FILE.match(file.name)
        if match is None or match[1] not in LABELS:
            continue
        image = nib.load(file)
        if merged is None:
            merged, affine = np.zeros(image.shape[:3], np.uint8), image.affine
        if image.shape[:3] != merged.shape or not np.allclose(image.affine, affine, atol=1e-3):
            raise ValueError(f"{file}: has a different grid from the other masks; export the masks again")
        merged[(np.asanyarray(image.dataobj) > 0) & (merged == 0)] = LABELS[match[1]]
    if merged is None:
        raise ValueError(f"{folder}: contains no vertebrae_L1.nii.gz or the like; segment the vertebrae first")
    if not empty and not merged.any():
        raise ValueError(f"{folder}: every vertebra mask is empty; exclude the case")
    return nib.Nifti1Image(merged, affine)
