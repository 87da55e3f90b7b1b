# SPDX-License-Identifier: Apache-2.0
"""Surface of vertebra masks at the outer edge of the cortex in the CT.

A network that is trained on simulated CTs ends its masks within the cortex of real ones. Reference masks include the cortex, whose
outer edge is at half of its maximum above soft tissue. ``docs/history/cortex_surface.md`` has measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter, maximum_filter

from ..io.working_grid import SAME_SPACING_MM

SOFT_TISSUE_HU = 40.0  # muscle; fat is darker and its edge lies between both
MAX_CORTEX_HU = 1200.0  # above it is metal
MIN_EDGE_HU = 100.0  # below it the half maximum is within the noise of soft tissue
SMOOTHING_MM = 1.0  # standard deviation of the average before the highest HU is sought: single voxels are noise
CORTEX_REACH_MM = 3.0  # from the surface to the highest HU of its cortex
MIN_PROBABILITY = 0.05  # of vertebra: contrast-enhanced vessels, ribs and implants beside a vertebra have less
MIN_CONTRAST_HU = 50.0  # between the highest HU and the edge, so that osteoporotic bone does not divide by noise
HALF, OUTSIDE = 0.5, 0.49  # probability at the surface, and the highest outside


def _cortex(hu: NDArray[np.float32], inside: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float32]:
    """Highest averaged HU (R, A, S) inside the masks within ``CORTEX_REACH_MM``; only meaningful there."""
    sigma = SMOOTHING_MM / spacing
    weight = gaussian_filter(inside.astype(np.float32), sigma, mode="constant", truncate=2.0)
    mean = gaussian_filter(np.where(inside, np.minimum(hu, MAX_CORTEX_HU), np.float32(0)), sigma, mode="constant", truncate=2.0)
    mean = np.where(inside, mean / np.maximum(weight, 1e-3), np.float32(-1024))
    size = 2 * np.maximum(np.round(CORTEX_REACH_MM / spacing), 1).astype(int) + 1
    return maximum_filter(mean, size=tuple(size), mode="constant", cval=-1024)


def _neighbours(labels: NDArray[np.uint8], axes: Sequence[int]) -> NDArray[np.uint8]:
    """Number of the vertebra that a voxel outside of all touches along one of the axes; 0 where it touches none or several."""
    result, several = np.zeros_like(labels), np.zeros(labels.shape, bool)
    for axis in axes:
        for source, target in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            into, of = [slice(None)] * labels.ndim, [slice(None)] * labels.ndim
            into[axis], of[axis] = target, source
            view, neighbour = result[tuple(into)], labels[tuple(of)]
            several[tuple(into)] |= (view > 0) & (neighbour > 0) & (view != neighbour)
            np.copyto(view, neighbour, where=(view == 0) & (neighbour > 0))
    result[(labels > 0) | several] = 0
    return result


def surface_box(labels: NDArray[np.uint8], spacing: Sequence[float], reach_mm: float) -> tuple[slice, ...]:
    """Box of the masks with all that decides on their surface.

    Raises:
        ValueError: where no voxel is labelled.
    """
    occupied = find_objects((labels > 0).astype(np.uint8))
    if not occupied:
        raise ValueError("labels has no vertebra; a surface needs one or more")
    margin = [int(np.ceil((CORTEX_REACH_MM + reach_mm) / s)) for s in spacing]
    return tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(occupied[0], margin, strict=True))


def include_cortex(
    labels: NDArray[np.uint8],
    probability: NDArray[np.float16],
    hu: NDArray[np.int16],
    spacing: Sequence[float],
    reach_mm: float = 1.5,
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Grow the masks of vertebrae to the outer edge of their cortex.

    A voxel beside a mask joins it where its HU are above the mean of soft tissue and the cortex inside, and where the network does
    not exclude it. Nothing is removed, no voxel between two vertebrae is added, and bone that is marked but belongs to no vertebra,
    such as the sacrum, is left out.

    Args:
        labels: number of the vertebra (R, A, S), 0 elsewhere.
        probability: probabilities of vertebra (R, A, S), with the surface of the masks at one half.
        hu: HU (R, A, S) of the same box.
        spacing: mm.
        reach_mm: the farthest from the surface that a mask grows along each axis, in whole voxels; axes with larger voxels do not
            take part.

    Returns:
        Labels and probabilities of the grown masks, as new arrays.
    """
    steps = [int((reach_mm + 2 * SAME_SPACING_MM) / s) for s in spacing]
    values, joined = hu.astype(np.float32), labels.copy()
    cortex = _cortex(values, labels > 0, np.asarray(spacing, float))
    edge = np.maximum((cortex + SOFT_TISSUE_HU) / 2, MIN_EDGE_HU)
    # One half at the edge and 1 at the HU of the cortex: between voxels the surface follows the HU.
    height = np.clip(HALF + (values - edge) / (2 * np.maximum(cortex - edge, MIN_CONTRAST_HU)), 0, 1).astype(probability.dtype)
    possible = (probability >= MIN_PROBABILITY) & (probability <= HALF)
    bone, surface = values >= edge, probability.copy()
    for step in range(max(steps)):
        touched = _neighbours(joined, [a for a, n in enumerate(steps) if n > step])
        beside = (touched > 0) & possible
        joins, rest = beside & bone, beside & ~bone
        joined[joins] = touched[joins]
        surface[joins] = np.maximum(surface[joins], height[joins])
        surface[rest] = np.maximum(surface[rest], np.minimum(height[rest], probability.dtype.type(OUTSIDE)))
    return joined, surface
