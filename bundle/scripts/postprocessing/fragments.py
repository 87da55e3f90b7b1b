# SPDX-License-Identifier: Apache-2.0
"""Findings on the scan's own grid, slice by slice, without the fragments that resampling separates from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..core.components import label_components
from ..io.resample import restore
from ..io.working_grid import WorkingGrid
from .findings import PostProcessing
from .probability_map import Probabilities

FindingSlice = tuple[int, tuple[slice, slice], NDArray[np.float32], NDArray, NDArray[np.bool_]]


class SliceComponents:
    """Connected components of a mask that is added slice by slice and never held as a whole."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.voxels: list[int] = []
        self.finding: list[int] = []
        self._previous: tuple[int, NDArray[np.int32]] | None = None

    def _root(self, n: int) -> int:
        while self.parent[n] != n:
            self.parent[n] = self.parent[self.parent[n]]
            n = self.parent[n]
        return n

    def add(self, k: int, mask: NDArray[np.bool_], numbers: NDArray) -> None:
        """Add the next slice (J, I): its index, the mask and the number of the finding at every voxel."""
        flat, count = label_components(mask)
        first = len(self.parent)
        if count:
            indices = np.flatnonzero(flat)
            ids = flat.ravel()[indices]
            order = np.unique(ids, return_index=True)[1]
            self.parent += range(first, first + count)
            self.voxels += np.bincount(ids, minlength=count + 1)[1:].tolist()
            self.finding += numbers.ravel()[indices[order]].tolist()
        numbered = np.where(flat > 0, flat + first, 0).astype(np.int32)
        if self._previous is not None and self._previous[0] == k - 1:
            before = self._previous[1]
            both = (before > 0) & (numbered > 0)
            for a, b in np.unique(np.stack([before[both], numbered[both]]), axis=1).T - 1:
                one, other = self._root(int(a)), self._root(int(b))
                if one != other:
                    self.parent[other] = one
                    self.voxels[one] += self.voxels[other]
        self._previous = (k, numbered)

    def small_fragments(self, min_voxels: float) -> NDArray[np.bool_]:
        """Mask of the components, in the order of ``add``: True where they belong to a fragment of fewer than ``min_voxels``
        that is not connected to the largest fragment of the same finding.
        """
        roots = [self._root(n) for n in range(len(self.parent))]
        largest: dict[int, int] = {}
        for root in set(roots):
            current = largest.setdefault(self.finding[root], root)
            if (self.voxels[root], -root) > (self.voxels[current], -current):
                largest[self.finding[root]] = root
        return np.array([self.voxels[r] < min_voxels and largest[self.finding[r]] != r for r in roots], bool)


def finding_slices(
    predicted: Probabilities, numbers: NDArray[np.int32], grid: WorkingGrid, post: PostProcessing, voxel_mm3: float
) -> Iterator[FindingSlice]:
    """Findings on the scan's grid.

    A finding that is barely connected on the working grid can be several components on another. Fragments below the smallest volume
    are dropped; the largest fragment of a finding always remains.

    Args:
        predicted: probabilities after post-processing.
        numbers: number of the finding at every voxel of the same box.
        grid: working grid.
        post: threshold and smallest volume.
        voxel_mm3: volume of a voxel of the scan.

    Yields:
        Index of the slice, the box of the values in it (rows J, columns I), probabilities (J, I), numbers of findings, and the
        mask.
    """
    drop, offset = np.zeros(0, bool), 0
    if numbers.any() and post.min_volume_ml > 0:
        components = SliceComponents()
        for k, _, probability, labels in restore(predicted.volume, predicted.origin, grid, numbers):
            assert labels is not None
            components.add(k, (probability > post.threshold) & (labels > 0), labels)
        drop = components.small_fragments(1000 * post.min_volume_ml / voxel_mm3)
    for k, box, probability, labels in restore(predicted.volume, predicted.origin, grid, numbers):
        assert labels is not None
        mask = (probability > post.threshold) & (labels > 0)
        if drop.any():
            flat, count = label_components(mask)
            mask &= ~np.concatenate([[False], drop[offset : offset + count]])[flat]
            offset += count
        yield k, box, probability, labels, mask
