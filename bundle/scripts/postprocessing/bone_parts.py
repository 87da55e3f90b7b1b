# SPDX-License-Identifier: Apache-2.0
"""Thick parts of a mask of bone, divided at its constrictions: a spinous process, a lamina, an articular process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter
from skimage.segmentation import watershed

SMOOTHING_VOXELS = 0.7  # of the distance from the surface, so that steps of the grid are no parts
SLAB, MAX_DEPTH_MM = 96, 40.0  # slices whose distances are computed at once, which takes 50 bytes a voxel, and the largest distance


def _depths(inside: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float32]:
    """Distance (R, A, S) from the surface in mm, slab by slab; larger ones than ``MAX_DEPTH_MM`` may be cut off there."""
    result = np.empty(inside.shape, np.float32)
    margin = int(np.ceil(MAX_DEPTH_MM / spacing[2]))
    for start in range(0, inside.shape[2], SLAB):
        low, stop = max(start - margin, 0), min(start + SLAB, inside.shape[2])
        distance = distance_transform_edt(inside[:, :, low : stop + margin], sampling=spacing)
        result[:, :, start:stop] = distance[:, :, start - low : stop - low]
    return result


def _saddles(parts: NDArray[np.int32], depth: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs (P, 2) of parts that touch, and the largest depth of their contact, the deepest first."""
    keys, values, count = [], [], int(parts.max()) + 1
    for axis in range(parts.ndim):
        low, high = [slice(None)] * parts.ndim, [slice(None)] * parts.ndim
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        one, other = parts[tuple(low)], parts[tuple(high)]
        touch = (one != other) & (one > 0) & (other > 0)
        a, b = one[touch].astype(np.int64), other[touch].astype(np.int64)
        keys.append(np.minimum(a, b) * count + np.maximum(a, b))
        values.append(np.minimum(depth[tuple(low)][touch], depth[tuple(high)][touch]))
    key, value = np.concatenate(keys), np.concatenate(values)
    order = np.lexsort((key, -value))
    _, first = np.unique(key[order], return_index=True)
    chosen = order[np.sort(first)]
    return np.stack([key[chosen] // count, key[chosen] % count], axis=1), value[chosen]


def _merged(peaks: NDArray[np.float32], pairs: NDArray[np.int64], saddles: NDArray[np.float32], neck: float) -> NDArray[np.int64]:
    """New number of each part after the union of those whose contact is less than ``neck`` below the lower of both peaks."""
    parent, peak = list(range(len(peaks))), peaks.tolist()

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for (one, other), saddle in zip(pairs.tolist(), saddles.tolist(), strict=True):
        a, b = root(one), root(other)
        if a != b and min(peak[a], peak[b]) - saddle < neck:
            low, high = (a, b) if (peak[a], -a) < (peak[b], -b) else (b, a)
            parent[low] = high
    return np.unique([root(n) for n in range(len(peaks))], return_inverse=True)[1]  # 0, outside, touches no part


def divide_at_necks(mask: NDArray[np.bool_], spacing: Sequence[float], neck_mm: float) -> NDArray[np.int32]:
    """Divide a mask into parts that are thicker than what connects them: the watershed of the distance from the surface.

    Args:
        mask: (R, A, S).
        spacing: mm.
        neck_mm: how much nearer to the surface the middle of a constriction is than that of the parts on both sides; more gives
            fewer parts.

    Returns:
        Number of the part (R, A, S), 0 outside the mask.
    """
    result = np.zeros(mask.shape, np.int32)
    boxes = find_objects(mask.astype(np.uint8))
    if not boxes:
        return result
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[0])
    inside = mask[box]
    depth = gaussian_filter(_depths(inside, spacing), SMOOTHING_VOXELS) * inside
    fine = watershed(-depth, mask=inside).astype(np.int32)
    peaks = np.zeros(int(fine.max()) + 1, np.float32)
    np.maximum.at(peaks, fine.ravel(), depth.ravel())
    result[box] = np.where(inside, _merged(peaks, *_saddles(fine, depth), neck_mm)[fine], 0)
    return result
