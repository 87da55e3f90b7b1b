# SPDX-License-Identifier: Apache-2.0
"""Linear interpolation of parallel slices at given positions onto a grid with right angles and even distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .working_grid import Taps

AIR_HU = -1024.0  # of voxels that no slice covers
SAME_PIXEL = 1e-3  # of a pixel


@dataclass(frozen=True)
class StraightGrid:
    """Grid along the normal of the slices that covers all of them.

    Attributes:
        shape: columns, rows, slices of the grid.
        stored: columns, rows, slices of the series.
        taps: the two stored slices that surround each slice of the grid.
        shifts: (stored slices, 2), columns and rows from the first pixel of the grid to the first pixel of a stored slice.
        distance: of the slices of the grid, in mm.
        first: corner of the grid (3,) in mm along columns, rows and normal, from the first pixel of the first stored slice.
        nearest: slice of the grid nearest to each stored slice (stored slices,).
    """

    shape: tuple[int, int, int]
    stored: tuple[int, int, int]
    taps: Taps
    shifts: NDArray[np.float64]
    distance: float
    first: NDArray[np.float64]
    nearest: NDArray[np.int64]

    @staticmethod
    def plan(size: tuple[int, int], spacing: tuple[float, float], offsets: NDArray[np.float64], distance: float) -> StraightGrid:
        """Plan the grid.

        Args:
            size: columns and rows of a slice.
            spacing: of columns and of rows in mm.
            offsets: (n, 3) of the slices in mm along columns, rows and normal, in increasing order along the normal.
            distance: of the slices of the grid, in mm.
        """
        low = offsets[:, :2].min(axis=0)
        pixels = (offsets[:, :2] - low) / np.asarray(spacing)
        width = [int(n + np.ceil(p - SAME_PIXEL)) for n, p in zip(size, pixels.max(axis=0), strict=True)]
        along = offsets[:, 2]
        slices = int(np.floor(along[-1] / distance + 1e-6)) + 1
        at = np.interp(np.arange(slices) * distance, along, np.arange(len(along), dtype=float))
        first = np.array([low[0], low[1], 0.0])
        nearest = np.clip(np.rint(along / distance), 0, slices - 1).astype(np.int64)
        shape = (width[0], width[1], slices)
        return StraightGrid(shape, (*size, len(along)), Taps.at(at, len(along)), pixels, distance, first, nearest)

    def slabs(self, read: Callable[[int, int], NDArray], depth: int) -> Iterator[NDArray[np.float32]]:
        """Slices of the grid (slice, row, column) in HU, ``depth`` at a time.

        Args:
            read: stored slices ``start`` to ``stop``, (slice, row, column).
            depth: number of slices.
        """
        for start in range(0, self.shape[2], depth):
            numbers = range(start, min(start + depth, self.shape[2]))
            first, last = int(self.taps.low[numbers[0]]), int(self.taps.high[numbers[-1]])
            stored = read(first, last + 1)
            yield np.stack([self._slice(n, stored, first) for n in numbers])

    def stored_planes(self, planes: Mapping[int, NDArray]) -> dict[int, NDArray]:
        """Labels of slices of the grid at the pixels of the stored slices, from the nearest voxel.

        A stored slice of a tilted gantry lies in a slice of the grid, so that only its shift in plane is rounded, by at most half a
        pixel. Where the distance varies, the nearest slice of the grid is at most half a distance away.

        Args:
            planes: labels (row, column) by slice of the grid.

        Returns:
            Labels (row, column) by stored slice, of those with a label.
        """
        columns, rows, _ = self.stored
        found = {}
        for index, number in enumerate(self.nearest):
            if int(number) in planes:
                left, top = (int(n) for n in np.rint(self.shifts[index]))
                plane = planes[int(number)][top : top + rows, left : left + columns]
                if plane.any():
                    found[index] = plane
        return found

    def _slice(self, number: int, stored: NDArray, first: int) -> NDArray[np.float32]:
        """One slice of the grid; where a single neighbour covers a pixel, its value counts alone."""
        weight = float(self.taps.weight[number])
        total = np.zeros((self.shape[1], self.shape[0]), np.float32)
        covered = np.zeros_like(total)
        for index, share in ((int(self.taps.low[number]), 1 - weight), (int(self.taps.high[number]), weight)):
            if share > 0:
                box, values = self._shifted(stored[index - first], self.shifts[index])
                total[box] += share * values
                covered[box] += share
        return np.where(covered > 0, total / np.maximum(covered, 1e-6), np.float32(AIR_HU))

    def _shifted(self, plane: NDArray, shift: NDArray[np.float64]) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
        """Stored slice (row, column) on the pixels of the grid that it covers, and their box."""
        values, box = plane.astype(np.float32), []
        for axis, pixels in ((0, shift[1]), (1, shift[0])):
            length = values.shape[axis]
            start, stop = int(np.ceil(pixels - SAME_PIXEL)), int(np.floor(pixels + length - 1 + SAME_PIXEL)) + 1
            taps = Taps.at(np.arange(start, stop) - pixels, length)
            weight = taps.weight.reshape((-1, 1) if axis == 0 else (1, -1))
            low, high = np.take(values, taps.low, axis), np.take(values, taps.high, axis)
            values = low + weight * (high - low)
            box.append(slice(start, stop))
        return (box[0], box[1]), values
