# SPDX-License-Identifier: Apache-2.0
"""Where in a scan a spine can be: dense bone, found on a coarse copy, with a wide margin."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter1d

from ..io.ct_volume import Scan
from ..io.working_grid import WorkingGrid

STEP_MM = 4.0
BONE_HU = 150.0
# A vertebra fills much of a ball of this size, a rib or the sternum little of it.
BALL_MM = (10.0, 10.0, 14.0)
LEVEL_MM = 60.0
RELATIVE, ABSOLUTE = 0.25, 0.03
MARGIN_MM = 30.0
MARGIN = 8  # voxels around a hit in its plane
MODES = ("all", "bone", "spine")


@dataclass(frozen=True)
class RegionMap:
    """Coarse map of places to look at.

    Attributes:
        mask: True where the spine can be (R, A, S).
        places: working voxel of every coarse voxel along R, A, S.
    """

    mask: NDArray[np.bool_]
    places: tuple[NDArray[np.float64], ...]

    def holds(self, axis: int, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the working slices along an axis hold any of it."""
        others = tuple(a for a in range(3) if a != axis)
        return np.asarray(self.mask.any(axis=others))[self.nearest(axis, indices)]

    def nearest(self, axis: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Nearest coarse voxel of working voxels along an axis."""
        edges = (self.places[axis][1:] + self.places[axis][:-1]) / 2
        return np.searchsorted(edges, indices)

    def plane(self, axis: int, index: int) -> tuple[NDArray[np.bool_], tuple[NDArray[np.float64], ...]]:
        """The map in one working slice, and the places of its voxels along the two other axes."""
        at = int(self.nearest(axis, np.array([index]))[0])
        return np.take(self.mask, at, axis), tuple(p for a, p in enumerate(self.places) if a != axis)

    def window(self, start: Sequence[int], size: Sequence[int]) -> bool:
        """Whether a box of working voxels holds any of it."""
        ranges = [np.searchsorted(p, (s - 0.5, s + n - 0.5)) for p, s, n in zip(self.places, start, size, strict=True)]
        return bool(self.mask[tuple(slice(a, max(b, a + 1)) for a, b in ranges)].any())


def coarse_copy(
    scan: Scan, grid: WorkingGrid, step_mm: float = STEP_MM
) -> tuple[NDArray[np.int16], tuple[NDArray[np.float64], ...]]:
    """Every few voxels of a scan along R, A, S (HU), and the working voxels where they lie."""
    spacing, lengths = scan.header.spacing, scan.header.shape
    strides = [max(int(step_mm // s), 1) for s in spacing]
    indices = [np.arange((n - 1) % s // 2, n, s) for n, s in zip(lengths, strides, strict=True)]
    rows, columns = slice(indices[1][0], None, strides[1]), slice(indices[0][0], None, strides[0])
    picked = np.stack([scan.slab(int(k), int(k) + 1)[0, rows, columns] for k in indices[2]])
    turned = picked.transpose(2, 1, 0).transpose(grid.axes)
    places = []
    for axis in range(3):
        place = grid.inverse_positions(axis, indices[grid.axes[axis]])
        places.append(np.sort(place))
        if grid.flips[axis]:
            turned = np.flip(turned, axis)
    return np.ascontiguousarray(turned), tuple(places)


def spine_region(
    hu: NDArray[np.int16], places: tuple[NDArray[np.float64], ...], grid: WorkingGrid, mode: str = "spine"
) -> RegionMap:
    """Mark where a spine can be.

    A network that is asked about every place decides better than a rule, so the rule only leaves out what is far from any dense
    bone: at every height it keeps what has at least a quarter of the bone density of the densest place near that height,
    and 30 mm around it.

    Args:
        hu: coarse copy (R, A, S).
        places: as given by ``coarse_copy``.
        grid: working grid.
        mode: "all" (everything), "bone" (30 mm around any bone) or "spine".

    Raises:
        ValueError: for another mode.
    """
    if mode not in MODES:
        raise ValueError(f"search={mode!r}: give one of {', '.join(MODES)}")
    if mode == "all":
        return RegionMap(np.ones(hu.shape, bool), places)
    pitch = [float(np.diff(p).mean()) * s if len(p) > 1 else s for p, s in zip(places, grid.spacing, strict=True)]
    bone = (hu > BONE_HU).astype(np.float32)
    density = gaussian_filter(bone, [b / p for b, p in zip(BALL_MM, pitch, strict=True)], mode="nearest", truncate=2.5)
    if mode == "bone":
        core = density > ABSOLUTE
    else:
        top = maximum_filter1d(density.max(axis=(0, 1)), max(int(LEVEL_MM / pitch[2]) | 1, 1))
        core = density > np.maximum(RELATIVE * top, ABSOLUTE)
    for axis, width in enumerate(pitch):
        reach = int(np.ceil(MARGIN_MM / width))
        line = np.ones([2 * reach + 1 if a == axis else 1 for a in range(3)], bool)
        core = binary_dilation(core, line)
    return RegionMap(core, places)


def region_around(
    shape: Sequence[int],
    axis: int,
    hits: Sequence[tuple[int, NDArray[np.bool_]]],
    reach: int,
    margin: int = MARGIN,
    block: int = 4,
) -> RegionMap:
    """Map of the places around what was found on a few slices.

    Args:
        shape: voxels of the working grid.
        axis: of the slices.
        hits: working slice and mask of what was found in it.
        reach: slices on both sides of a hit that are looked at.
        margin: voxels around a hit in its plane.
        block: voxels of a coarse voxel in the plane.
    """
    others = [a for a in range(3) if a != axis]
    coarse = [-(-shape[a] // block) for a in others]
    places: list[NDArray[np.float64]] = [np.arange(n, dtype=float) for n in shape]
    for a, n in zip(others, coarse, strict=True):
        places[a] = np.minimum(np.arange(n) * block + (block - 1) / 2, shape[a] - 1)
    mask = np.zeros([shape[axis], *coarse], bool)
    grow = -(-margin // block)
    for index, hit in hits:
        rows, columns = np.nonzero(hit)
        if rows.size == 0:
            continue
        small = np.zeros(coarse, bool)
        small[rows // block, columns // block] = True
        wide = np.pad(small, grow)
        spread = np.zeros(coarse, bool)
        for dr, dc in itertools.product(range(2 * grow + 1), repeat=2):
            spread |= wide[dr : dr + coarse[0], dc : dc + coarse[1]]
        mask[max(index - reach, 0) : index + reach + 1] |= spread
    return RegionMap(np.moveaxis(mask, 0, axis), tuple(places))
