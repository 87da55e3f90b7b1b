# SPDX-License-Identifier: Apache-2.0
"""Overlap, volumes and surface distances of one case, all from one pair of hard masks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EMPTY_RULES = ("score", "exclude")
# What every table of this package prints beside its numbers.
DEFINITIONS = {
    "dice": "2 |P and R| / (|P| + |R|), per case, on the grid of the reference",
    "iou": "|P and R| / |P or R| of the same masks; equals dice / (2 - dice) in every case",
    "iou_with_background": "mean of iou and of the IoU of everything that is neither P nor R",
    "nsd": "normalised surface dice: share of the surface voxels of both masks within the tolerance of the other surface",
    "hd95_mm": "larger of the two 95th percentiles of the distances between the surfaces; only cases with P and R not empty",
    "assd_mm": "mean distance between the surfaces, both directions pooled; only cases with P and R not empty",
    "volume_error_ml": "volume of P minus volume of R",
    "false_positive_ml": "volume of P outside R",
    "empty reference": "score: dice, iou and nsd are 1 when P is empty too, else 0; exclude: such cases are left out and counted",
    "unknown voxels": "voxels that hold the ignore value in the reference are taken out of P, R and background",
}


def surface_metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float], tolerance_mm: float = 1.0
) -> dict[str, float]:
    """Normalised surface dice, HD95 and ASSD of two masks that are not empty.

    Surfaces are the voxels that touch the outside, as MONAI's metrics take them; one search for the nearest surface voxel serves
    all three numbers.

    Args:
        prediction: mask, 2D or 3D.
        reference: mask on the same grid.
        spacing: size of a voxel along each axis in mm.
        tolerance_mm: distance that counts as agreement in the surface dice.
    """
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    with warnings.catch_warnings():
        # MONAI 1.6 calls a function of its own with an argument that it has deprecated.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy")
        _, (to_reference, to_prediction), _ = get_edge_surface_distance(
            torch.from_numpy(np.ascontiguousarray(prediction)),
            torch.from_numpy(np.ascontiguousarray(reference)),
            spacing=[float(s) for s in spacing],
            symmetric=True,
        )
    one, other = np.asarray(to_reference, np.float64), np.asarray(to_prediction, np.float64)
    both = np.concatenate([one, other])
    return {
        "nsd": float(np.mean(both <= tolerance_mm + 1e-6)),
        "hd95_mm": float(max(np.percentile(one, 95), np.percentile(other, 95))),
        "assd_mm": float(both.mean()),
    }


def union_box(*arrays: NDArray) -> tuple[slice, ...]:
    """Smallest box that holds what is not 0 in any of the arrays; empty slices when there is nothing.

    The arrays are read slab by slab: a scan has a hundred million voxels, and a copy of it costs more than the look.
    """
    used = [np.zeros(n, bool) for n in arrays[0].shape]
    for array in map(np.asarray, arrays):
        lead = int(np.argmax(np.abs(array.strides)))  # slabs that lie together in memory, in C and in Fortran order
        others = [axis for axis in range(array.ndim) if axis != lead]
        for index, slab in enumerate(np.moveaxis(array, lead, 0)):
            inside = slab != 0
            if not inside.any():
                continue
            used[lead][index] = True
            for place, axis in enumerate(others):
                used[axis] |= inside.any(axis=tuple(k for k in range(inside.ndim) if k != place))
    places = [np.flatnonzero(u) for u in used]
    return tuple(slice(int(p[0]), int(p[-1]) + 1) if p.size else slice(0, 0) for p in places)


def case_metrics(
    prediction: NDArray,
    reference: NDArray,
    spacing: Sequence[float],
    tolerance_mm: float = 1.0,
    ignore_index: int | None = None,
    empty_reference: str = "score",
) -> dict[str, float]:
    """All metrics of one case; ``DEFINITIONS`` says what they are.

    Args:
        prediction: mask on the grid of the reference, 2D or 3D; everything above 0 counts.
        reference: mask; everything above 0 that is not ``ignore_index`` counts.
        spacing: size of a voxel along each axis in mm.
        tolerance_mm: of the normalised surface dice.
        ignore_index: mark of unknown voxels in the reference, not 0, or None.
        empty_reference: "score" gives 1 when the prediction is empty too and 0 when not, "exclude" gives NaN.

    Raises:
        ValueError: when the grids differ or an argument is out of range.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape} and reference {reference.shape}; they must share a grid"
        )
    if len(spacing) != reference.ndim or min(spacing) <= 0:
        raise ValueError(f"spacing={tuple(spacing)} for {reference.ndim} axes; give a positive size in mm per axis")
    if empty_reference not in EMPTY_RULES:
        raise ValueError(f"empty_reference={empty_reference!r}; give one of {', '.join(EMPTY_RULES)}")
    if ignore_index == 0:
        raise ValueError("ignore_index=0 is the background; give the value that marks unknown voxels, or None")
    # Everything that counts lies in the box, unknown voxels too.
    box = union_box(prediction, reference)
    marks = np.asarray(reference)[box]
    p, r = np.asarray(prediction)[box] > 0, marks > 0
    known = reference.size
    if ignore_index is not None:
        unknown = marks == ignore_index
        known -= int(np.count_nonzero(unknown))
        p, r = p & ~unknown, r & ~unknown
    box = union_box(p, r)
    p, r = p[box], r[box]
    ml = float(np.prod([float(s) for s in spacing])) / 1000
    both, in_p, in_r = (int(np.count_nonzero(m)) for m in (p & r, p, r))
    either = in_p + in_r - both
    empty = float("nan") if empty_reference == "exclude" and not in_r else float(not either)
    iou = both / either if in_r else empty
    background = known - either
    iou_background = background / (known - both) if known > both else 1.0
    metrics = {
        "dice": 2 * both / (in_p + in_r) if in_r else empty,
        "iou": iou,
        "iou_with_background": (iou + iou_background) / 2,
        "nsd": empty if not in_r else 0.0,
        "hd95_mm": float("nan"),
        "assd_mm": float("nan"),
        "reference_ml": in_r * ml,
        "prediction_ml": in_p * ml,
        "volume_error_ml": (in_p - in_r) * ml,
        "false_positive_ml": (in_p - both) * ml,
    }
    if in_p and in_r:
        metrics.update(surface_metrics(p, r, spacing, tolerance_mm))
    return metrics
