# SPDX-License-Identifier: Apache-2.0
"""Fragments are those of labelling the whole mask at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label
from scripts.postprocessing.fragments import SliceComponents


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
