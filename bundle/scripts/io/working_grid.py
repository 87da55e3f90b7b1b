# SPDX-License-Identifier: Apache-2.0
"""The grid that the network sees, and how its axes lie in the stored scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SAME_SPACING_MM = 1e-3  # as MONAI's Spacing: closer than this is the same


@dataclass(frozen=True)
class Taps:
    """Linear interpolation along one axis: output n is ``low[n]`` and ``high[n]`` of the input, mixed by ``weight[n]``."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]

    @staticmethod
    def at(positions: NDArray[np.float64], length: int) -> Taps:
        """Taps at positions in voxels; outside the border the border's value goes on."""
        inside = np.clip(positions, 0, length - 1)
        low = np.minimum(np.floor(inside + 1e-6).astype(np.int64), length - 1)
        high = np.minimum(low + 1, length - 1)
        return Taps(low, high, np.clip(inside - low, 0, 1).astype(np.float32))


@dataclass(frozen=True)
class WorkingGrid:
    """Axes to the right, to the front and up (R, A, S), with a spacing of its own and the first voxel of the scan as first voxel.

    It is the grid that MONAI's ``Orientation("RAS")`` and ``Spacing`` make of the scan: the axes follow the voxel axes of the scan,
    oblique ones too, so that resampling goes axis by axis.

    Attributes:
        input_shape: shape of the stored scan.
        axes: axis of the stored scan that each working axis runs along.
        flips: whether it runs against that axis.
        steps: voxels of the stored scan per working voxel.
        shape: number of working voxels.
        spacing: mm.
        affine: working voxel to world (R, A, S, mm).
    """

    input_shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    steps: tuple[float, float, float]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]

    @staticmethod
    def plan(shape: Sequence[int], affine: NDArray[np.float64], spacing: Sequence[float]) -> WorkingGrid:
        """Plan the grid for a scan.

        Args:
            shape: of the stored scan (I, J, K).
            affine: its voxel to world (R, A, S, mm).
            spacing: wanted along R, A, S in mm; a value below 0 keeps the scan's own.
        """
        orientation = nib.orientations.io_orientation(affine)
        axes = np.argsort(orientation[:, 0]).astype(int)
        flips = orientation[axes, 1] < 0
        own = np.linalg.norm(affine[:3, :3], axis=0)[axes]
        wanted = np.array([s if s > 0 else o for s, o in zip(spacing, own, strict=True)], float)
        wanted = np.where(np.abs(own - wanted) <= SAME_SPACING_MM, own, wanted)
        lengths = np.array([shape[a] for a in axes])
        steps = wanted / own
        numbers = np.round((lengths - 1) / steps + 1).astype(int)
        matrix = np.eye(4)
        first = np.zeros(3)
        for to, (source, flip) in enumerate(zip(axes, flips, strict=True)):
            matrix[:3, to] = affine[:3, source] * (-steps[to] if flip else steps[to])
            first[source] = shape[source] - 1 if flip else 0
        matrix[:3, 3] = affine[:3, :3] @ first + affine[:3, 3]
        return WorkingGrid(
            input_shape=tuple(int(n) for n in shape),  # type: ignore[arg-type]
            axes=tuple(int(a) for a in axes),  # type: ignore[arg-type]
            flips=tuple(bool(f) for f in flips),  # type: ignore[arg-type]
            steps=tuple(float(s) for s in steps),  # type: ignore[arg-type]
            shape=tuple(int(n) for n in numbers),  # type: ignore[arg-type]
            spacing=tuple(float(s) for s in wanted),  # type: ignore[arg-type]
            affine=matrix,
        )

    def taps(self, axis: int, indices: NDArray[np.int64]) -> Taps:
        """Where working voxels lie in the stored scan along one working axis."""
        length = self.input_shape[self.axes[axis]]
        positions = np.asarray(indices, np.float64) * self.steps[axis]
        return Taps.at(length - 1 - positions if self.flips[axis] else positions, length)

    def inverse_positions(self, axis: int, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where voxels of the stored scan lie along a working axis, in working voxels."""
        length = self.input_shape[self.axes[axis]]
        own = length - 1 - np.asarray(indices, np.float64) if self.flips[axis] else np.asarray(indices, np.float64)
        return own / self.steps[axis]

    def inverse_range(self, axis: int, start: int, stop: int) -> tuple[int, int]:
        """Stored voxels that interpolation from working voxels ``start`` to ``stop`` can reach: first and one past the last."""
        length = self.input_shape[self.axes[axis]]
        low, high = (start - 1) * self.steps[axis], stop * self.steps[axis]
        if self.flips[axis]:
            low, high = length - 1 - high, length - 1 - low
        return max(int(np.floor(low)), 0), min(int(np.ceil(high)) + 1, length)
