# SPDX-License-Identifier: Apache-2.0
"""Findings on the scan's own grid, slice by slice, without the fragments that resampling separates from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.components import label_components
from ..io.resample import restore
from ..io.working_grid import WorkingGrid
from .findings import PostProcessing
from .probability_map import Probabilities

HALF, OUTSIDE = 0.5, 0.49  # probability at the surface of a vertebra, and the highest outside of the instances
MIN_FRAGMENT_ML = 0.3  # of a separate part of a vertebra that is kept
VertebraSlice = tuple[int, tuple[slice, slice], NDArray[np.uint8]]
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


def vertebra_slices(
    probability: NDArray[np.float16], labels: NDArray[np.uint8], origin: Sequence[int], grid: WorkingGrid, voxel_mm3: float
) -> Iterator[VertebraSlice]:
    """Vertebra instances on the scan's grid, without the specks that resampling separates from them.

    Args:
        probability: probabilities of vertebra (R, A, S), whose surface at one half is that of the masks.
        labels: number of the vertebra (R, A, S) in the same box.
        origin: first voxel of the box in the working grid.
        grid: working grid.
        voxel_mm3: volume of a voxel of the scan.

    Yields:
        Index of the slice, the box of the values in it (rows J, columns I), and the number of the vertebra (J, I).
    """
    # Outside of the instances the surface is not crossed, so that what was left out there does not return.
    inside = np.where(labels > 0, probability, np.minimum(probability, np.float16(OUTSIDE)))
    extended = _extended(labels)

    def numbers_of(values: NDArray[np.float32], nearest: NDArray) -> NDArray[np.uint8]:
        return np.where(values > HALF, nearest, 0).astype(np.uint8)

    # Neighbours touch each other; vertebrae of even and odd numbers do not touch their like.
    components = (SliceComponents(), SliceComponents())
    for k, _, values, nearest in restore(inside, origin, grid, extended):
        assert nearest is not None
        numbers = numbers_of(values, nearest)
        for parity, part in enumerate(components):
            part.add(k, (numbers > 0) & (numbers % 2 == parity), numbers)
    drop = [part.small_fragments(1000 * MIN_FRAGMENT_ML / voxel_mm3) for part in components]
    offset = [0, 0]
    for k, box, values, nearest in restore(inside, origin, grid, extended):
        assert nearest is not None
        numbers = numbers_of(values, nearest)
        for parity in (0, 1):
            flat, count = label_components((numbers > 0) & (numbers % 2 == parity))
            lookup = np.concatenate([[False], drop[parity][offset[parity] : offset[parity] + count]])
            offset[parity] += count
            if lookup.any():
                numbers[lookup[flat]] = 0
        yield k, box, numbers


def _extended(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels one voxel beyond each vertebra, for lookup of the nearest voxel from a finer grid."""
    result = labels.copy()
    for axis in range(3):
        before = result.copy()
        for shift in (1, -1):
            source: list[slice] = [slice(None)] * 3
            target: list[slice] = [slice(None)] * 3
            source[axis], target[axis] = (slice(None, -1), slice(1, None)) if shift > 0 else (slice(1, None), slice(None, -1))
            view, neighbour = result[tuple(target)], before[tuple(source)]
            np.copyto(view, neighbour, where=(view == 0) & (neighbour > 0))
    return result
