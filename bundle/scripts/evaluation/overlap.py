# SPDX-License-Identifier: Apache-2.0
"""Overlap, volumes and surface distances of one case, all of one pair of binary masks.

Definitions follow Metrics Reloaded (Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z); the normalised surface dice is that of
Nikolov et al. 2021 (doi:10.2196/26151).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EMPTY_RULES = ("score", "exclude")
METRIC_DEFINITIONS = {
    "dice": "2 |P and R| / (|P| + |R|), per case, on the grid of the reference",
    "iou": "|P and R| / |P or R| of the same masks; equals dice / (2 - dice) in every case",
    "iou_with_background": "mean of iou and of the IoU of everything that is neither P nor R",
    "nsd": "normalised surface dice: fraction of the surface voxels of both masks within the tolerance of the other surface",
    "hd95_mm": "larger of the two 95th percentiles of the distances between the surfaces; only cases with P and R not empty",
    "assd_mm": "mean distance between the surfaces, both directions pooled; only cases with P and R not empty",
    "volume_error_ml": "volume of P minus volume of R",
    "false_positive_ml": "volume of P outside R",
    "empty reference": "score: dice, iou and nsd are 1 for an empty P, else 0; exclude: such cases are left out and counted",
    "ignore index": "voxels with this label in the reference are removed from P, R and background",
}


def surface_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float] | NDArray, tolerance_mm: float = 1.0
) -> dict[str, float]:
    """Normalised surface dice, HD95 and ASSD of two masks that are not empty.

    Surfaces are the voxels that touch the outside, as in MONAI's metrics.

    Args:
        prediction: mask (X, Y) or (X, Y, Z).
        reference: mask of the same shape.
        spacing: voxel size along each axis (mm).
        tolerance_mm: largest distance of matching surface voxels in the surface dice.
    """
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    with warnings.catch_warnings():
        # MONAI 1.6 calls a function of its own with an argument that it has deprecated.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy")
        _, distances, _ = get_edge_surface_distance(
            torch.from_numpy(np.ascontiguousarray(prediction)),
            torch.from_numpy(np.ascontiguousarray(reference)),
            spacing=[float(s) for s in spacing],
            symmetric=True,
        )
    to_reference, to_prediction = (np.asarray(d, np.float64) for d in distances)
    pooled = np.concatenate([to_reference, to_prediction])
    return {
        "nsd": float(np.mean(pooled <= tolerance_mm + 1e-6)),
        "hd95_mm": float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        "assd_mm": float(pooled.mean()),
    }


def bounding_box(*arrays: NDArray) -> tuple[slice, ...]:
    """Smallest box around the voxels of all arrays that are not 0; empty slices without any.

    Arrays are read slab by slab, because a copy of a whole scan costs more time than the search.
    """
    occupied = [np.zeros(n, bool) for n in arrays[0].shape]
    for array in map(np.asarray, arrays):
        slowest = int(np.argmax(np.abs(array.strides)))  # contiguous slabs, in C and in Fortran order
        others = [axis for axis in range(array.ndim) if axis != slowest]
        for index, slab in enumerate(np.moveaxis(array, slowest, 0)):
            inside = slab != 0
            if not inside.any():
                continue
            occupied[slowest][index] = True
            for k, axis in enumerate(others):
                occupied[axis] |= inside.any(axis=tuple(j for j in range(inside.ndim) if j != k))
    indices = [np.flatnonzero(o) for o in occupied]
    return tuple(slice(int(i[0]), int(i[-1]) + 1) if i.size else slice(0, 0) for i in indices)


def case_metrics(
    prediction: NDArray,
    reference: NDArray,
    spacing: Sequence[float] | NDArray,
    tolerance_mm: float = 1.0,
    ignore_index: int | None = None,
    empty_reference: str = "score",
) -> dict[str, float]:
    """All metrics of one case, as ``METRIC_DEFINITIONS`` defines them.

    Args:
        prediction: mask (X, Y) or (X, Y, Z) on the grid of the reference; everything above 0 counts.
        reference: mask of the same shape; everything above 0 other than ``ignore_index`` counts.
        spacing: voxel size along each axis (mm).
        tolerance_mm: tolerance in mm of the normalised surface dice.
        ignore_index: label of ignored voxels in the reference, not 0, or None.
        empty_reference: overlap metrics for an empty reference. "score": 1 for an empty prediction, else 0; "exclude": NaN.

    Raises:
        ValueError: for different shapes, or an argument out of range.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and reference {reference.shape}; must share a grid")
    if len(spacing) != reference.ndim or min(spacing) <= 0:
        raise ValueError(f"spacing={tuple(spacing)} for {reference.ndim} axes; must be a positive size in mm per axis")
    if empty_reference not in EMPTY_RULES:
        raise ValueError(f"empty_reference={empty_reference!r}; must be one of {', '.join(EMPTY_RULES)}")
    if ignore_index == 0:
        raise ValueError("ignore_index=0 is the background; must be the label of ignored voxels, or None")
    box = bounding_box(prediction, reference)  # every ignored voxel lies in it
    labels = np.asarray(reference)[box]
    p, r = np.asarray(prediction)[box] > 0, labels > 0
    num_valid = reference.size
    if ignore_index is not None:
        ignored = labels == ignore_index
        num_valid -= int(np.count_nonzero(ignored))
        p, r = p & ~ignored, r & ~ignored
    box = bounding_box(p, r)
    p, r = p[box], r[box]
    ml = float(np.prod([float(s) for s in spacing])) / 1000
    intersection, num_p, num_r = (int(np.count_nonzero(m)) for m in (p & r, p, r))
    union = num_p + num_r - intersection
    empty = float("nan") if empty_reference == "exclude" and not num_r else float(not union)
    iou = intersection / union if num_r else empty
    iou_background = (num_valid - union) / (num_valid - intersection) if num_valid > intersection else 1.0
    metrics = {
        "dice": 2 * intersection / (num_p + num_r) if num_r else empty,
        "iou": iou,
        "iou_with_background": (iou + iou_background) / 2,
        "nsd": empty if not num_r else 0.0,
        "hd95_mm": float("nan"),
        "assd_mm": float("nan"),
        "reference_ml": num_r * ml,
        "prediction_ml": num_p * ml,
        "volume_error_ml": (num_p - num_r) * ml,
        "false_positive_ml": (num_p - intersection) * ml,
    }
    if num_p and num_r:
        metrics.update(surface_metrics(p, r, spacing, tolerance_mm))
    return metrics
