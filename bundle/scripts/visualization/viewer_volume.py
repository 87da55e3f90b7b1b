# SPDX-License-Identifier: Apache-2.0
"""Small copy of a scan around its spine, for the overview and the viewer: HU and vertebra numbers on one coarse grid."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.working_grid import WorkingGrid

SPACINGS_MM = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # tried in this order; never finer than the stored scan
MAX_BASE64 = 6_000_000  # characters of the HU of one scan
CHARACTERS_PER_VOXEL = 0.7  # of base64, of the 1 mm grid of noisy scans; finer noise than this is tried on the next grid
MARGINS_MM = (
    (14.0, 14.0),
    (18.0, 40.0),
    (18.0, 18.0),
)  # around the vertebrae: left and right, behind and in front, below and above
STEP_HU = 4  # HU are rounded to multiples of it, a tenth of the noise of a CT
HU_RANGE = (-1024, 3068)


@dataclass(frozen=True)
class ViewerVolume:
    """Part of a scan on a coarse grid.

    Attributes:
        hu: HU (R, A, S), int16, multiples of ``STEP_HU``.
        numbers: number of the vertebra (R, A, S), uint8, 0 elsewhere.
        spacing: mm along R, A, S.
        affine: voxel to world (4, 4), mm.
    """

    hu: NDArray[np.int16]
    numbers: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]

    def voxel(self, world: Sequence[float]) -> NDArray[np.float64]:
        """Voxel coordinates along R, A, S of a point in mm."""
        return np.linalg.solve(self.affine, np.array([*world, 1.0]))[:3]


def _axis_range(grid: WorkingGrid, view: WorkingGrid, numbers: NDArray[np.uint8], origin: Sequence[int], axis: int) -> range:
    """Voxels of ``view`` along an axis that show the vertebrae and the margin, or the whole axis without vertebrae."""
    hit = np.flatnonzero(numbers.any(axis=tuple(a for a in range(3) if a != axis)))
    if not len(hit):
        return range(view.shape[axis])
    low, high = (float(hit[end] + origin[axis]) * grid.spacing[axis] for end in (0, -1))
    step, (before, after) = view.spacing[axis], MARGINS_MM[axis]
    return range(max(int(np.floor((low - before) / step)), 0), min(int(np.ceil((high + after) / step)) + 1, view.shape[axis]))


def _interpolate(values: NDArray[np.float32], positions: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Linear interpolation along an axis at positions in voxels; 0 outside."""
    low = np.floor(positions).astype(int)
    weight = (positions - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    padded = np.pad(values, [(1, 1) if a == axis else (0, 0) for a in range(3)])
    first, second = (np.take(padded, np.clip(low + 1 + d, 0, padded.shape[axis] - 1), axis) for d in (0, 1))
    return first * (1 - weight) + second * weight


def _numbers_on(
    grid: WorkingGrid, view: WorkingGrid, shown: Sequence[range], numbers: NDArray[np.uint8], origin: Sequence[int]
) -> NDArray[np.uint8]:
    """Vertebra numbers at the voxels shown: each vertebra is interpolated and cut at one half, so that its surface is smooth."""
    steps = [v / w for v, w in zip(view.spacing, grid.spacing, strict=True)]
    out = np.zeros([len(r) for r in shown], np.uint8)
    best = np.full(out.shape, 0.5, np.float32)
    for number, box in enumerate(find_objects(numbers), start=1):
        if box is None:
            continue
        target, values = [], (numbers[box] == number).astype(np.float32)
        for axis, (inside, voxels) in enumerate(zip(box, shown, strict=True)):
            low, high = ((origin[axis] + edge) / steps[axis] for edge in (inside.start - 1, inside.stop))
            reach = range(max(int(np.ceil(low)), voxels.start), min(int(high) + 1, voxels.stop))
            positions = np.arange(reach.start, reach.stop) * steps[axis] - origin[axis] - inside.start
            values = _interpolate(values, positions, axis)
            target.append(slice(reach.start - voxels.start, reach.stop - voxels.start))
        part = best[tuple(target)]
        wins = values >= part
        part[wins] = values[wins]
        out[tuple(target)][wins] = number
    return out


def spine_volume(
    scan: Scan, grid: WorkingGrid, numbers: NDArray[np.uint8], origin: Sequence[int], spacings: Sequence[float] = SPACINGS_MM
) -> ViewerVolume:
    """Sample a scan around its vertebrae on the finest of ``spacings`` whose base64 is expected to fit ``MAX_BASE64``.

    Args:
        scan: voxels in HU.
        grid: working grid.
        numbers: number of the vertebra (R, A, S) in a box of the working grid; all zero shows the whole scan.
        origin: first voxel of the box in the working grid.
        spacings: candidate spacings in mm.
    """
    stored = WorkingGrid.plan(grid.input_shape, scan.header.affine, (-1, -1, -1)).spacing
    if not numbers.size:
        numbers, origin = np.zeros((1, 1, 1), np.uint8), (0, 0, 0)
    for spacing in spacings:
        view = WorkingGrid.plan(grid.input_shape, scan.header.affine, [max(spacing, s) for s in stored])
        shown = [_axis_range(grid, view, numbers, origin, axis) for axis in range(3)]
        if np.prod([len(r) for r in shown], dtype=float) * CHARACTERS_PER_VOXEL <= MAX_BASE64:
            break
    hu = sample(scan.slab, view, [np.arange(r.start, r.stop) for r in shown])
    np.clip(hu, *HU_RANGE, out=hu)
    hu = (np.rint(hu / np.float32(STEP_HU)) * STEP_HU).astype(np.int16)
    affine = view.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [r.start for r in shown]
    return ViewerVolume(hu, _numbers_on(grid, view, shown, numbers, origin), view.spacing, affine)


def _base64(data: bytes) -> str:
    # No time stamp, so that the same scan makes the same page.
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def encode_hu(hu: NDArray[np.int16]) -> str:
    """Base64 of HU, R fastest: differences of neighbours in steps, zigzag, low and high bytes apart, gzip.

    That is two thirds of the size of plain gzip; ``assets/viewer.js`` has the inverse.
    """
    steps = (hu // STEP_HU).astype(np.int16).ravel(order="F")
    difference = np.diff(steps, prepend=np.int16(0)).astype(np.int16)
    zigzag = ((difference << 1) ^ (difference >> 15)).astype("<u2")
    return _base64(zigzag.view(np.uint8).reshape(-1, 2).T.tobytes())


def encode_numbers(numbers: NDArray[np.uint8]) -> str:
    """Base64 of vertebra numbers, R fastest, gzip."""
    return _base64(numbers.tobytes(order="F"))
