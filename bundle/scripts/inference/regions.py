# SPDX-License-Identifier: Apache-2.0
"""Regions of a scan that are predicted: around dense bone for the coarse pass, around detections for the fine pass."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, label, maximum_filter1d

from ..io.ct_volume import Scan
from ..io.working_grid import WorkingGrid

STEP_MM = 4.0
BONE_HU = 150.0
# A vertebra fills much of a ball of this size, a rib or the sternum little of it.
BALL_MM = (10.0, 10.0, 14.0)
LEVEL_MM = 60.0  # along the spine, over which the densest bone is the reference
MIN_RELATIVE_DENSITY, MIN_DENSITY = 0.25, 0.03
BONE_MARGIN_MM = 30.0
INPLANE_MARGIN_VOXELS = 8  # around a detection
MODES = ("all", "bone", "spine")


@dataclass(frozen=True)
class RegionMap:
    """Coarse map of the region that is predicted.

    Attributes:
        mask: region (R, A, S), in coarse voxels.
        coordinates: working voxel of every coarse voxel along R, A, S.
    """

    mask: NDArray[np.bool_]
    coordinates: tuple[NDArray[np.float64], ...]

    def _along(self, axis: int) -> NDArray[np.bool_]:
        """Coarse slices along an axis that intersect the region."""
        return np.asarray(self.mask.any(axis=tuple(a for a in range(3) if a != axis)))

    def nearest(self, axis: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Nearest coarse voxel of working voxels along an axis."""
        edges = (self.coordinates[axis][1:] + self.coordinates[axis][:-1]) / 2
        return np.searchsorted(edges, indices)

    def intersects_slices(self, axis: int, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask of working slices along an axis: True where they intersect the region."""
        return self._along(axis)[self.nearest(axis, indices)]

    def intersects(self, start: Sequence[int], size: Sequence[int]) -> bool:
        """True when a box of working voxels intersects the region."""
        ranges = [np.searchsorted(c, (s - 0.5, s + n - 0.5)) for c, s, n in zip(self.coordinates, start, size, strict=True)]
        return bool(self.mask[tuple(slice(a, max(b, a + 1)) for a, b in ranges)].any())

    def plane(self, axis: int, index: int) -> tuple[NDArray[np.bool_], tuple[NDArray[np.float64], ...]]:
        """Map of one working slice, and the coordinates of its voxels along the two other axes."""
        coarse = int(self.nearest(axis, np.array([index]))[0])
        return np.take(self.mask, coarse, axis), tuple(c for a, c in enumerate(self.coordinates) if a != axis)

    def bounds(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """First working voxel of the region and the one after its last, along R, A, S; a coarse voxel wider on both sides."""
        bounds = []
        for axis, (c, n) in enumerate(zip(self.coordinates, shape, strict=True)):
            occupied = np.flatnonzero(self._along(axis))
            step = max(int(np.ceil(float(np.diff(c).max()))), 1) if len(c) > 1 else 1
            bounds.append(
                (max(int(c[occupied[0]]) - step, 0), min(int(c[occupied[-1]]) + step + 1, n)) if len(occupied) else (0, 0)
            )
        return bounds

    def beside(self, other: RegionMap, reach_mm: float, grid: WorkingGrid) -> RegionMap:
        """Region without what lies farther than a reach to the right or left of another one; whole if the other is empty."""
        if not other.mask.any():
            return self
        (low, high), reach = other.bounds(grid.shape)[0], reach_mm / grid.spacing[0]
        inside = (self.coordinates[0] >= low - reach) & (self.coordinates[0] < high + reach)
        return RegionMap(self.mask & inside[:, None, None], self.coordinates)


def coarse_copy(
    scan: Scan, grid: WorkingGrid, step_mm: float = STEP_MM
) -> tuple[NDArray[np.int16], tuple[NDArray[np.float64], ...]]:
    """Subsampled scan (R, A, S) in HU, and its coordinates in working voxels along the three axes."""
    spacing, lengths = scan.header.spacing, scan.header.shape
    strides = [max(int(step_mm // s), 1) for s in spacing]
    indices = [np.arange((n - 1) % s // 2, n, s) for n, s in zip(lengths, strides, strict=True)]
    rows, columns = slice(indices[1][0], None, strides[1]), slice(indices[0][0], None, strides[0])
    picked = np.stack([scan.slab(int(k), int(k) + 1)[0, rows, columns] for k in indices[2]])
    turned = picked.transpose(2, 1, 0).transpose(grid.axes)
    coordinates = []
    for axis in range(3):
        coordinates.append(np.sort(grid.inverse_positions(axis, indices[grid.axes[axis]])))
        if grid.flips[axis]:
            turned = np.flip(turned, axis)
    return np.ascontiguousarray(turned), tuple(coordinates)


def spine_region(
    hu: NDArray[np.int16], coordinates: tuple[NDArray[np.float64], ...], grid: WorkingGrid, mode: str = "spine"
) -> RegionMap:
    """Region that can contain the spine.

    The network is more reliable than a rule, which only excludes what is far from dense bone: at every height the region contains
    all bone of at least a quarter of the density of the densest bone near that height, and 30 mm around it.

    Args:
        hu: coarse copy (R, A, S).
        coordinates: as returned by ``coarse_copy``.
        grid: working grid.
        mode: "all" (everything), "bone" (30 mm around any bone) or "spine".

    Raises:
        ValueError: for another mode.
    """
    if mode not in MODES:
        raise ValueError(f"search={mode!r}: must be one of {', '.join(MODES)}")
    if mode == "all":
        return RegionMap(np.ones(hu.shape, bool), coordinates)
    pitch = [float(np.diff(c).mean()) * s if len(c) > 1 else s for c, s in zip(coordinates, grid.spacing, strict=True)]
    bone = (hu > BONE_HU).astype(np.float32)
    density = gaussian_filter(bone, [b / p for b, p in zip(BALL_MM, pitch, strict=True)], mode="nearest", truncate=2.5)
    if mode == "bone":
        core = density > MIN_DENSITY
    else:
        top = maximum_filter1d(density.max(axis=(0, 1)), max(int(LEVEL_MM / pitch[2]) | 1, 1))
        core = density > np.maximum(MIN_RELATIVE_DENSITY * top, MIN_DENSITY)
    for axis, width in enumerate(pitch):
        margin = int(np.ceil(BONE_MARGIN_MM / width))
        line = np.ones([2 * margin + 1 if a == axis else 1 for a in range(3)], bool)
        core = binary_dilation(core, line)
    return RegionMap(core, coordinates)


def region_around(
    shape: Sequence[int],
    axis: int,
    detections: Sequence[tuple[int, NDArray[np.bool_]]],
    slice_margin: int,
    inplane_margin: int = INPLANE_MARGIN_VOXELS,
    block: int = 4,
) -> RegionMap:
    """Region around the detections on a few slices.

    Args:
        shape: voxels of the working grid.
        axis: normal of the slices.
        detections: working slices and the masks of the detections on them.
        slice_margin: slices on both sides of a detection.
        inplane_margin: voxels around a detection in its plane.
        block: working voxels per coarse voxel in the plane.
    """
    others = [a for a in range(3) if a != axis]
    coarse = [-(-shape[a] // block) for a in others]
    coordinates: list[NDArray[np.float64]] = [np.arange(n, dtype=float) for n in shape]
    for a, n in zip(others, coarse, strict=True):
        coordinates[a] = np.minimum(np.arange(n) * block + (block - 1) / 2, shape[a] - 1)
    mask = np.zeros([shape[axis], *coarse], bool)
    margin = -(-inplane_margin // block)
    for index, detection in detections:
        rows, columns = np.nonzero(detection)
        if rows.size == 0:
            continue
        occupied = np.zeros(coarse, bool)
        occupied[rows // block, columns // block] = True
        padded = np.pad(occupied, margin)
        dilated = np.zeros(coarse, bool)
        for dr, dc in itertools.product(range(2 * margin + 1), repeat=2):
            dilated |= padded[dr : dr + coarse[0], dc : dc + coarse[1]]
        mask[max(index - slice_margin, 0) : index + slice_margin + 1] |= dilated
    return RegionMap(np.moveaxis(mask, 0, axis), tuple(coordinates))


def largest_parts(region: RegionMap, axis: int, detections: Sequence[tuple[int, NDArray[np.bool_]]], fraction: float) -> RegionMap:
    """Connected parts of a region that contain much of its detections.

    Args:
        region: as returned by ``region_around``.
        axis: normal of the slices.
        detections: working slices and the masks of the detections on them.
        fraction: of the detected voxels in the part with most of them; parts with fewer are left out.
    """
    parts, count = label(region.mask)
    if count < 2:
        return region
    voxels = np.zeros(count + 1, np.int64)
    for index, detection in detections:
        plane = np.take(parts, int(region.nearest(axis, np.array([index]))[0]), axis)
        rows, columns = np.nonzero(detection)
        others = [a for a in range(3) if a != axis]
        numbers = plane[region.nearest(others[0], rows), region.nearest(others[1], columns)]
        voxels += np.bincount(numbers, minlength=count + 1)
    keep = voxels >= fraction * voxels[1:].max()
    keep[0] = False
    return RegionMap(keep[parts], region.coordinates)
