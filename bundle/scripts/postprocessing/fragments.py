# SPDX-License-Identifier: Apache-2.0
"""Findings on the scan's own grid, slice by slice, without what fell off them on the way there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from ..io.resample import restore
from ..io.working_grid import WorkingGrid
from .findings import PostProcessing
from .probability_map import Probabilities

Plane = tuple[int, tuple[slice, slice], NDArray[np.float32], NDArray, NDArray[np.bool_]]


class SliceComponents:
    """Connected pieces of a mask that is shown slice by slice and never held as a whole."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.voxels: list[int] = []
        self.finding: list[int] = []
        self._last: tuple[int, NDArray[np.int32]] | None = None

    def _root(self, n: int) -> int:
        while self.parent[n] != n:
            self.parent[n] = self.parent[self.parent[n]]
            n = self.parent[n]
        return n

    def add(self, k: int, mask: NDArray[np.bool_], marks: NDArray) -> None:
        """Take the next slice (J, I): its number, the mask and the number of the finding at every voxel."""
        flat, count = label(mask)
        first = len(self.parent)
        if count:
            places = np.flatnonzero(flat)
            ids = flat.ravel()[places]
            order = np.unique(ids, return_index=True)[1]
            self.parent += range(first, first + count)
            self.voxels += np.bincount(ids, minlength=count + 1)[1:].tolist()
            self.finding += marks.ravel()[places[order]].tolist()
        numbered = np.where(flat > 0, flat + first, 0).astype(np.int32)
        if self._last is not None and self._last[0] == k - 1:
            before = self._last[1]
            both = (before > 0) & (numbered > 0)
            for a, b in np.unique(np.stack([before[both], numbered[both]]), axis=1).T - 1:
                one, other = self._root(int(a)), self._root(int(b))
                if one != other:
                    self.parent[other] = one
                    self.voxels[one] += self.voxels[other]
        self._last = (k, numbered)

    def small_fragments(self, smallest: float) -> NDArray[np.bool_]:
        """Which parts of slices, in the order in which they were taken, belong to pieces of fewer than ``smallest`` voxels beside a
        larger piece of the same finding.
        """
        roots = [self._root(n) for n in range(len(self.parent))]
        largest: dict[int, int] = {}
        for root in set(roots):
            kept = largest.setdefault(self.finding[root], root)
            if (self.voxels[root], -root) > (self.voxels[kept], -kept):
                largest[self.finding[root]] = root
        return np.array([self.voxels[r] < smallest and largest[self.finding[r]] != r for r in roots], bool)


def finding_slices(
    found: Probabilities, numbers: NDArray[np.int32], grid: WorkingGrid, post: PostProcessing, voxel_mm3: float
) -> Iterator[Plane]:
    """Findings on the scan's grid.

    A finding that hangs together by a thread on the working grid can fall apart on another. Fragments smaller than the
    smallest finding are dropped; the largest piece of a finding always stays.

    Args:
        found: probabilities after post-processing.
        numbers: number of the finding at every voxel of the same box.
        grid: working grid.
        post: threshold and smallest volume.
        voxel_mm3: of the scan.

    Yields:
        Number of the slice, where in it the values lie, probabilities (J, I), numbers of findings, and the mask.
    """
    drop, at = np.zeros(0, bool), 0
    if numbers.any() and post.min_volume_ml > 0:
        pieces = SliceComponents()
        for k, _, chance, marks in restore(found.volume, found.origin, grid, numbers):
            assert marks is not None
            pieces.add(k, (chance > post.threshold) & (marks > 0), marks)
        drop = pieces.small_fragments(1000 * post.min_volume_ml / voxel_mm3)
    for k, box, chance, marks in restore(found.volume, found.origin, grid, numbers):
        assert marks is not None
        mask = (chance > post.threshold) & (marks > 0)
        if drop.any():
            flat, count = label(mask)
            mask &= ~np.concatenate([[False], drop[at : at + count]])[flat]
            at += count
        yield k, box, chance, marks, mask
