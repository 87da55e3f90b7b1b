# SPDX-License-Identifier: Apache-2.0
"""Windows of a slice or volume: those of MONAI's sliding window, and the ones that a region needs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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

    def _ranges(self, start: Sequence[int], coordinates: Sequence[NDArray[np.float64]]) -> tuple[slice, ...]:
        return tuple(
            slice(*np.searchsorted(c, (s - b - 0.5, s - b + w - 0.5)))
            for s, b, w, c in zip(start, self.before, self.window, coordinates, strict=True)
        )

    def touching(self, mask: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]) -> list[tuple[int, ...]]:
        """Starts of the windows that intersect a mask, whose voxels have these coordinates along each axis."""
        return [s for s in self.all() if mask[self._ranges(s, coordinates)].any()]

    def cover(self, mask: NDArray[np.bool_], coordinates: Sequence[NDArray[np.float64]]) -> list[tuple[int, ...]]:
        """Starts of a few windows that together cover a mask (greedy set cover)."""
        uncovered, chosen = mask.copy(), []
        candidates = {s: self._ranges(s, coordinates) for s in self.all()}
        while uncovered.any():
            best = max(candidates, key=lambda s: np.count_nonzero(uncovered[candidates[s]]))
            if not uncovered[candidates[best]].any():
                break
            uncovered[candidates[best]] = False
            chosen.append(best)
        return chosen
