# SPDX-License-Identifier: Apache-2.0
"""Windows of a slice or volume: those of MONAI's sliding window, and the few that a region needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WindowGrid:
    """Windows of MONAI's ``sliding_window_inference`` over an image.

    An image smaller than the window is padded on both sides; positions below are in the padded image.

    Attributes:
        size: voxels of the image.
        window: voxels of a window.
        before: padding in front of each axis.
        starts: first voxels of the windows along each axis.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    before: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @staticmethod
    def plan(size: Sequence[int], window: Sequence[int], overlap: float) -> WindowGrid:
        """Plan windows.

        Args:
            size: voxels of the image.
            window: voxels of a window.
            overlap: fraction of a window that it shares with the next.
        """
        starts, before = [], []
        for n, w in zip(size, window, strict=True):
            padded = max(n, w)
            before.append((padded - n) // 2)
            step = max(int(w * (1 - overlap)), 1) if padded != w else w
            along = [min(s, padded - w) for s in range(0, max(padded - w, 0) + step, step)]
            starts.append(tuple(dict.fromkeys(along)))
        return WindowGrid(tuple(size), tuple(window), tuple(before), tuple(starts))

    @property
    def padded(self) -> tuple[int, ...]:
        """Voxels of the padded image."""
        return tuple(max(n, w) for n, w in zip(self.size, self.window, strict=True))

    def all(self) -> list[tuple[int, ...]]:
        """Starts of all windows."""
        return list(itertools.product(*self.starts))

    def part(self, starts: Iterable[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First voxel of the image that windows contain, and the one after their last, along each axis; padded axes are whole."""
        chosen = np.array(list(starts), np.int64).reshape(-1, len(self.size))
        if not len(chosen):
            return np.zeros(len(self.size), np.int64), np.zeros(len(self.size), np.int64)
        whole = np.array(self.padded) > np.array(self.size)
        low, high = chosen.min(axis=0), chosen.max(axis=0) + self.window
        return np.where(whole, 0, low), np.where(whole, self.size, high)

    def _ranges(self, start: Sequence[int], coordinates: Sequence[NDArray[np.float64]]) -> tuple[slice, ...]:
        return tuple(
            slice(*np.searchsorted(c, (s - b - 0.5, s - b + w - 0.5)))
            for s, b, w, c in zip(start, self.before, self.window, coordinates, strict=True)
        )

    def touching(self, mask: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]) -> list[tuple[int, ...]]:
        """Starts of the windows that intersect a mask, whose voxels have these coordinates along each axis."""
        return [s for s in self.all() if self.contains_any(s, mask, coordinates)]

    def contains_any(self, start: Sequence[int], mask: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]) -> bool:
        """True when a window intersects a mask."""
        return bool(mask[self._ranges(start, coordinates)].any())

    def covered(self, starts: Iterable[Sequence[int]]) -> NDArray[np.bool_]:
        """Voxels of the image (X, Y) in any of the windows."""
        padded = np.zeros(self.padded, bool)
        for start in starts:
            padded[tuple(slice(s, s + w) for s, w in zip(start, self.window, strict=True))] = True
        return padded[tuple(slice(b, b + n) for b, n in zip(self.before, self.size, strict=True))]

    def cover_all(
        self, starts: Iterable[Sequence[int]], mask: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]
    ) -> bool:
        """True when windows together contain every voxel of the image whose nearest voxel of a coarse map is in its mask."""
        nearest = [np.searchsorted((c[1:] + c[:-1]) / 2, np.arange(n)) for c, n in zip(coordinates, self.size, strict=True)]
        return not (mask[np.ix_(*nearest)] & ~self.covered(starts)).any()

    def cover(self, mask: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]) -> list[tuple[int, ...]]:
        """Starts of a few windows that together cover a mask of an image, anywhere in the image.

        The mask is divided into the fewest equal strips along the last axis that fit a window, each strip into the fewest along
        the first, and a window is centred on what is left of the mask in each part, so that its borders have surroundings.

        Args:
            mask: (X, Y) voxels of a coarse map of the image.
            coordinates: position of these voxels in the image along both axes.
        """
        starts = []
        for columns in self._strips(np.asarray(mask.any(axis=0)), 1, coordinates[1]):
            for rows in self._strips(np.asarray(mask[:, columns].any(axis=1)), 0, coordinates[0]):
                cells = np.argwhere(mask[np.ix_(rows, columns)])
                if len(cells):
                    low, high = cells.min(axis=0), cells.max(axis=0)
                    parts = (rows[low[0] : high[0] + 1], columns[low[1] : high[1] + 1])
                    starts.append(tuple(self._centred(axis, coordinates[axis], part) for axis, part in enumerate(parts)))
        return list(dict.fromkeys(starts))

    def _pitch(self, axis: int, coordinate: NDArray[np.float64]) -> float:
        """Largest distance between coarse voxels along an axis; a single one is as long as the image."""
        return float(np.diff(coordinate).max()) if len(coordinate) > 1 else float(self.size[axis])

    def _extent(self, axis: int, coordinate: NDArray[np.float64], cells: NDArray[np.int64]) -> tuple[float, float]:
        """First and last position in the image that sorted coarse voxels cover along an axis."""
        half = self._pitch(axis, coordinate) / 2
        return max(coordinate[cells[0]] - half, -0.5), min(coordinate[cells[-1]] + half, self.size[axis] - 0.5)

    def _strips(self, occupied: NDArray[np.bool_], axis: int, coordinate: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        """Coarse voxels between the first and last occupied one, divided into the fewest equal strips that fit a window."""
        cells = np.flatnonzero(occupied)
        if not len(cells):
            return []
        cells = np.arange(cells[0], cells[-1] + 1)
        low, high = self._extent(axis, coordinate, cells)
        # A coarse voxel across the border of two strips is in one of them, whole.
        widest = max(self.window[axis] - self._pitch(axis, coordinate), 1.0)
        count = 1 if high - low <= self.window[axis] else math.ceil((high - low) / widest)
        number = np.minimum(((coordinate[cells] - low) * count / (high - low)).astype(int), count - 1)
        return [cells[number == n] for n in range(count) if (number == n).any()]

    def _centred(self, axis: int, coordinate: NDArray[np.float64], cells: NDArray[np.int64]) -> int:
        """Start of the window around coarse voxels along an axis."""
        low, high = self._extent(axis, coordinate, cells)
        start = math.floor((low + high + 1) / 2 - self.window[axis] / 2 + 0.5) + self.before[axis]
        return min(max(start, 0), self.padded[axis] - self.window[axis])
