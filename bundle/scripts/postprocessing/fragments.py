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
KEPT_BYTES = 40  # of slices kept for the second pass, per voxel of the working grid; less than finding the vertebrae took there
VertebraSlice = tuple[int, tuple[slice, slice], NDArray[np.uint8]]
Corner = tuple[int, int]
FindingSlice = tuple[int, tuple[slice, slice], NDArray[np.float32], NDArray, NDArray[np.bool_]]


def _common(one: Corner, first: NDArray, other: Corner, second: NDArray) -> tuple[NDArray, NDArray]:
    """Parts of two boxes of a slice, given by their first row and column, that cover the same voxels."""
    low = [max(a, b) for a, b in zip(one, other, strict=True)]
    ends = ([c + n for c, n in zip(corner, part.shape, strict=True)] for corner, part in ((one, first), (other, second)))
    high = [max(min(a, b), n) for a, b, n in zip(*ends, low, strict=True)]
    return tuple(
        part[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))]
        for corner, part in ((one, first), (other, second))
    )  # type: ignore[return-value]


class SliceComponents:
    """Connected components of a mask that is added slice by slice and never held as a whole."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.voxels: list[int] = []
        self.finding: list[int] = []
        self._previous: tuple[int, Corner, NDArray[np.int32]] | None = None

    def _root(self, n: int) -> int:
        while self.parent[n] != n:
            self.parent[n] = self.parent[self.parent[n]]
            n = self.parent[n]
        return n

    def add(self, k: int, mask: NDArray[np.bool_], numbers: NDArray, corner: Corner = (0, 0)) -> int:
        """Add the next slice and return the number of its components.

        Args:
            k: index of the slice.
            mask: mask (J, I) in a box of the slice.
            numbers: number of the finding (J, I) in the box.
            corner: first row and column of the box.
        """
        flat, count = label_components(mask)
        first = len(self.parent)
        if count:
            indices = np.flatnonzero(flat)
            ids = flat.ravel()[indices]
            first_voxel = np.empty(count + 1, np.int64)
            first_voxel[ids[::-1]] = indices[::-1]
            self.parent += range(first, first + count)
            self.voxels += np.bincount(ids, minlength=count + 1)[1:].tolist()
            self.finding += numbers.ravel()[first_voxel[1:]].tolist()
        numbered = np.where(flat > 0, flat + first, 0).astype(np.int32)
        if self._previous is not None and self._previous[0] == k - 1:
            before, after = _common(self._previous[1], self._previous[2], corner, numbered)
            both = (before > 0) & (after > 0)
            pairs = np.unique(before[both].astype(np.int64) << 32 | after[both])
            for pair in pairs.tolist():
                one, other = self._root((pair >> 32) - 1), self._root((pair & 0xFFFFFFFF) - 1)
                if one != other:
                    self.parent[other] = one
                    self.voxels[one] += self.voxels[other]
        self._previous = (k, corner, numbered)
        return count

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

    def slices() -> Iterator[VertebraSlice]:
        for k, box, values, nearest in restore(inside, origin, grid, extended):
            assert nearest is not None
            numbers = np.where(values > HALF, nearest, 0).astype(np.uint8)
            if (part := _filled(numbers)) is not None:
                (rows, columns), (j, i) = part, (box[0].start, box[1].start)
                shifted = (slice(j + rows.start, j + rows.stop), slice(i + columns.start, i + columns.stop))
                yield k, shifted, np.ascontiguousarray(numbers[part])

    # Neighbours touch each other; vertebrae of even and odd numbers do not touch their like.
    components, counts = (SliceComponents(), SliceComponents()), []
    kept: list[VertebraSlice] | None = []
    left = KEPT_BYTES * labels.size
    for k, box, numbers in slices():
        corner = (box[0].start, box[1].start)
        parities = numbers % 2
        counts.append([part.add(k, (numbers > 0) & (parities == p), numbers, corner) for p, part in enumerate(components)])
        left -= numbers.size
        if kept is not None:
            kept.append((k, box, numbers))
        if left < 0:
            kept = None  # a scan that is much finer than the working grid is resampled a second time
    drop = [part.small_fragments(1000 * MIN_FRAGMENT_ML / voxel_mm3) for part in components]
    offset = [0, 0]
    for (k, box, numbers), count in zip(slices() if kept is None else kept, counts, strict=True):
        for parity in (0, 1):
            dropped = drop[parity][offset[parity] : offset[parity] + count[parity]]
            offset[parity] += count[parity]
            if dropped.any():
                flat, _ = label_components((numbers > 0) & (numbers % 2 == parity))
                numbers[np.concatenate([[False], dropped])[flat]] = 0
        yield k, box, numbers


def _filled(numbers: NDArray[np.uint8]) -> tuple[slice, slice] | None:
    """Smallest box (rows, columns) of what is not 0, None where all is 0."""
    rows = np.flatnonzero(numbers.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(numbers[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


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
