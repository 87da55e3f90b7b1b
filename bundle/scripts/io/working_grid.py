# SPDX-License-Identifier: Apache-2.0
"""Working grid, the resampled grid of the network, and its mapping to the stored scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import spacing_of

SAME_SPACING_MM = 1e-3  # tolerance of MONAI's Spacing


@dataclass(frozen=True)
class Taps:
    """Linear interpolation along one axis: output n is ``(1 - weight[n]) * input[low[n]] + weight[n] * input[high[n]]``."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]

    @staticmethod
    def at(positions: NDArray[np.float64], length: int) -> Taps:
        """Taps at positions in voxels of an axis of ``length``; the border is repeated outside."""
        inside = np.clip(positions, 0, length - 1)
        low = np.minimum(np.floor(inside + 1e-6).astype(np.int64), length - 1)
        high = np.minimum(low + 1, length - 1)
        return Taps(low, high, np.clip(inside - low, 0, 1).astype(np.float32))


@dataclass(frozen=True)
class WorkingGrid:
    """Grid with axes (R, A, S), a given spacing, and the first voxel of the reoriented scan as its first voxel.

    It equals the output grid of MONAI's ``Orientation("RAS")`` and ``Spacing``: its axes follow the voxel axes of the scan, oblique
    ones too, so that resampling is separable.

    Attributes:
        input_shape: shape of the stored scan.
        axes: axis of the stored scan parallel to each working axis.
        flips: whether a working axis runs against it.
        steps: voxels of the stored scan per working voxel.
        shape: working voxels along R, A, S.
        spacing: along R, A, S in mm.
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
            shape: shape of the stored scan (I, J, K).
            affine: voxel to world of the stored scan (R, A, S, mm).
            spacing: along R, A, S in mm; a value below 0 keeps that of the scan.
        """
        orientation = nib.orientations.io_orientation(affine)
        axes = np.argsort(orientation[:, 0]).astype(int)
        flips = orientation[axes, 1] < 0
        stored = spacing_of(affine)[axes]
        target = np.array([t if t > 0 else s for t, s in zip(spacing, stored, strict=True)], float)
        target = np.where(np.abs(stored - target) <= SAME_SPACING_MM, stored, target)
        lengths = np.array([shape[a] for a in axes])
        steps = target / stored
        counts = np.round((lengths - 1) / steps + 1).astype(int)
        matrix = np.eye(4)
        first = np.zeros(3)
        for axis, (source, flip) in enumerate(zip(axes, flips, strict=True)):
            matrix[:3, axis] = affine[:3, source] * (-steps[axis] if flip else steps[axis])
            first[source] = shape[source] - 1 if flip else 0
        matrix[:3, 3] = affine[:3, :3] @ first + affine[:3, 3]
        return WorkingGrid(
            input_shape=tuple(int(n) for n in shape),  # type: ignore[arg-type]
            axes=tuple(int(a) for a in axes),  # type: ignore[arg-type]
            flips=tuple(bool(f) for f in flips),  # type: ignore[arg-type]
            steps=tuple(float(s) for s in steps),  # type: ignore[arg-type]
            shape=tuple(int(n) for n in counts),  # type: ignore[arg-type]
            spacing=tuple(float(s) for s in target),  # type: ignore[arg-type]
            affine=matrix,
        )

    def taps(self, axis: int, indices: NDArray[np.int64]) -> Taps:
        """Taps into the stored scan at working voxels ``indices`` along a working axis."""
        length = self.input_shape[self.axes[axis]]
        positions = np.asarray(indices, np.float64) * self.steps[axis]
        return Taps.at(length - 1 - positions if self.flips[axis] else positions, length)

    def inverse_positions(self, axis: int, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Positions of stored voxels ``indices`` along a working axis, in working voxels."""
        length = self.input_shape[self.axes[axis]]
        positions = np.asarray(indices, np.float64)
        return (length - 1 - positions if self.flips[axis] else positions) / self.steps[axis]

    def inverse_range(self, axis: int, start: int, stop: int) -> tuple[int, int]:
        """Stored voxels, first and one past the last, that interpolation from working voxels ``start`` to ``stop`` reaches."""
        length = self.input_shape[self.axes[axis]]
        low, high = (start - 1) * self.steps[axis], stop * self.steps[axis]
        if self.flips[axis]:
            low, high = length - 1 - high, length - 1 - low
        return max(int(np.floor(low)), 0), min(int(np.ceil(high)) + 1, length)
