# SPDX-License-Identifier: Apache-2.0
"""Label maps: masks of integers from 0 to 255, such as vertebra instances or fractures."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .formats import read_volume
from .image_checks import volume_shape
from .vertebra_folder import merge_vertebrae, vertebra_folder

TOLERANCE = 1e-3  # rounding of integers that were stored with a scale factor or as floats
REMEDY = "a label map must contain integers; resample it by nearest neighbour"


def ensure_integers(data: NDArray, path: Path | str, tolerance: float = TOLERANCE, remedy: str = REMEDY) -> None:
    """Refuse an array with values other than integers.

    Args:
        data: voxels (X, Y, Z) of any numeric type.
        path: file they come from, for the message.
        tolerance: greatest distance from an integer.
        remedy: end of the message about fractions.

    Raises:
        ValueError: for NaN, infinite values and fractions.
    """
    if data.dtype.kind in "iub":
        return
    if not np.isfinite(data.max(initial=0) - data.min(initial=0)):
        raise ValueError(f"{path}: contains NaN or infinite values; a label map must contain integers")
    # Slab by slab, as the difference of a whole scan takes eight times the memory of its labels.
    for k in range(data.shape[-1]):
        slab = data[..., k]
        if np.abs(slab - np.rint(slab)).max(initial=0) > tolerance:
            raise ValueError(f"{path}: contains fractions; {remedy}")


def read_label_map(path: Path | str, tolerance: float = TOLERANCE, remedy: str = REMEDY) -> nib.Nifti1Image:
    """Read a label map of any numeric type and format.

    Args:
        path: file that ``read_volume`` reads, or a folder of TotalSegmentator with one mask per vertebra.
        tolerance: greatest distance of a voxel from an integer.
        remedy: end of the message about fractions.

    Returns:
        Labels (X, Y, Z), uint8, with the affine (R, A, S, mm) of the file; trailing axes of length one are removed.

    Raises:
        ValueError: for NaN, fractions, and values outside 0 to 255.
    """
    if (folder := vertebra_folder(path)) is not None:
        return merge_vertebrae(folder, empty=True)
    image = read_volume(path)
    data = np.asanyarray(image.dataobj)
    data = data.reshape(volume_shape(data.shape))
    ensure_integers(data, path, tolerance, remedy)
    low, high = data.min(initial=0), data.max(initial=0)
    if low < -0.5 or high > 255.5:
        raise ValueError(f"{path}: contains values from {low:g} to {high:g}; a label map must contain integers from 0 to 255")
    if data.dtype == np.uint8:
        return nib.Nifti1Image(data, image.affine)
    labels = np.empty(data.shape, np.uint8)
    for k in range(data.shape[-1]):
        labels[..., k] = np.rint(data[..., k])
    return nib.Nifti1Image(labels, image.affine)
