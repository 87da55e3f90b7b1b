# SPDX-License-Identifier: Apache-2.0
"""Fragments are those of labelling the whole mask at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label
from scripts.io.working_grid import WorkingGrid
from scripts.postprocessing import fragments
from scripts.postprocessing.fragments import SliceComponents, vertebra_slices


@pytest.mark.parametrize("seed", range(5))
def test_components_equal_those_of_the_whole_volume(seed):
    rng = np.random.default_rng(seed)
    volume = rng.random((9, 12, 13)) < 0.35
    volume[4] &= seed % 2 == 0  # a gap between slices
    numbers = volume.astype(int)  # one finding
    expected, count = label(volume)
    sizes = np.bincount(expected.ravel())[1:]
    components = SliceComponents()
    for k, plane in enumerate(volume):
        if plane.any():  # empty slices are not added
            components.add(k, plane, numbers[k])
    drop = components.small_fragments(8)
    offset, remaining = 0, np.zeros_like(volume)
    for k, plane in enumerate(volume):
        flat, n = label(plane)
        remaining[k] = plane & ~np.concatenate([[False], drop[offset : offset + n]])[flat]
        offset += n
    large = 1 + np.flatnonzero((sizes >= 8) | (sizes == sizes.max()))
    differing = remaining != np.isin(expected, large)
    assert count > 10
    assert len(large) < count
    # The largest fragment remains even when it is small; here it is large.
    assert sizes.max() >= 8
    assert not differing.any()


def test_largest_fragment_of_every_finding_remains():
    components = SliceComponents()
    plane = np.zeros((4, 12), bool)
    plane[1, [0, 2, 3, 6, 9, 10, 11]] = True
    numbers = np.where(np.arange(12) < 5, 1, 2) * plane
    components.add(0, plane, numbers)
    assert components.small_fragments(100).tolist() == [True, False, True, False]
    assert not components.small_fragments(0).any()


@pytest.mark.parametrize("seed", range(4))
def test_components_of_boxes_equal_those_of_whole_slices(seed):
    rng = np.random.default_rng(seed)
    volume = np.zeros((8, 14, 15), bool)
    for plane in volume:  # every slice is filled in a box of its own
        j, i = rng.integers(0, 8, 2)
        plane[j : j + 6, i : i + 7] = rng.random((6, 7)) < 0.6
    whole, boxes = SliceComponents(), SliceComponents()
    for k, plane in enumerate(volume):
        rows, columns = (np.flatnonzero(plane.any(axis=a)) for a in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        counts = whole.add(k, plane, plane.astype(int)), boxes.add(k, plane[box], plane[box].astype(int), (rows[0], columns[0]))
        assert counts[0] == counts[1]
    assert whole.voxels == boxes.voxels
    for smallest in (2, 5, 20):
        assert whole.small_fragments(smallest).tolist() == boxes.small_fragments(smallest).tolist()


def test_slices_kept_for_the_second_pass_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    labels = np.zeros((14, 16, 20), np.uint8)
    labels[3:11, 4:12, 2:9], labels[3:11, 4:12, 9:17] = 1, 2
    probability = np.where(labels > 0, rng.uniform(0.3, 1.0, labels.shape), rng.uniform(0.0, 0.6, labels.shape)).astype(np.float16)
    grid = WorkingGrid.plan((40, 36, 44), np.diag([-0.6, -0.7, 0.8, 1.0]), (1.5, 1.5, 1.5))

    def slices():
        return [(k, box, n.copy()) for k, box, n in vertebra_slices(probability, labels, (1, 0, 1), grid, 0.336)]

    kept = slices()
    monkeypatch.setattr(fragments, "KEPT_BYTES", 0)
    again = slices()
    assert len(kept) == len(again) > 10
    for (k, box, numbers), (other, other_box, others) in zip(kept, again, strict=True):
        assert (k, box) == (other, other_box)
        assert np.array_equal(numbers, others)
        assert numbers.shape == tuple(s.stop - s.start for s in box)
    assert {n for _, _, numbers in kept for n in np.unique(numbers)} == {0, 1, 2}
