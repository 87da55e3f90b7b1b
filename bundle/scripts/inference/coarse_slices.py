# SPDX-License-Identifier: Apache-2.0
"""Slices of the coarse pass, which the fine pass does not predict again where their windows cover its region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from .regions import RegionMap
from .windows import WindowGrid


@dataclass
class CoarseSlices:
    """Probabilities of the slices of a coarse pass, and the windows that they are made of.

    Attributes:
        probabilities: (K, *size) by slice, float16.
        windows: starts of the windows by slice.
    """

    probabilities: dict[int, NDArray[np.float16]] = field(default_factory=dict)
    windows: dict[int, Sequence[tuple[int, ...]]] = field(default_factory=dict)

    def add(self, index: int, probabilities: NDArray[np.float32], windows: Sequence[tuple[int, ...]]) -> None:
        """Keep a slice in half precision."""
        self.probabilities[index] = torch.from_numpy(probabilities).to(torch.float16).numpy()
        self.windows[index] = windows

    def of_region(
        self, region: RegionMap, axis: int, grid: WindowGrid, fine: Mapping[int, Sequence[tuple[int, ...]]]
    ) -> dict[int, NDArray[np.float16]]:
        """Probabilities of the slices that the fine pass can use as they are, 0 outside the windows in the region.

        These are slices whose windows cover the region, with no more windows in it, and so no more borders of windows, than those
        of the fine pass.

        Args:
            region: region of the fine pass.
            axis: normal of the slices.
            grid: windows of a slice.
            fine: starts of the windows of the fine pass by slice.
        """
        kept = {}
        for index, probabilities in self.probabilities.items():
            mask, coordinates = region.plane(axis, index)
            inside = [w for w in self.windows[index] if grid.contains_any(w, mask, coordinates)]
            if fine.get(index) and len(inside) <= len(fine[index]) and grid.cover_all(inside, mask, coordinates):
                kept[index] = probabilities * grid.covered(inside)
        return kept
