# SPDX-License-Identifier: Apache-2.0
"""What falls off a finding on the scan's grid is dropped, as if the whole mask had been labelled at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label
from scripts.postprocessing.fragments import SliceComponents


@pytest.mark.parametrize("seed", range(5))
def test_pieces_are_those_of_the_whole_volume(seed):
    rng = np.random.default_rng(seed)
    volume = rng.random((9, 12, 13)) < 0.35
    volume[4] &= seed % 2 == 0  # a gap between slices
    marks = volume.astype(int)  # one finding
    expected, count = label(volume)
    sizes = np.bincount(expected.ravel())[1:]
    pieces = SliceComponents()
    for k, plane in enumerate(volume):
        if plane.any():  # slices without anything are not shown
            pieces.add(k, plane, marks[k])
    drop = pieces.small_fragments(8)
    at, kept = 0, np.zeros_like(volume)
    for k, plane in enumerate(volume):
        flat, n = label(plane)
        kept[k] = plane & ~np.concatenate([[False], drop[at : at + n]])[flat]
        at += n
    large = 1 + np.flatnonzero((sizes >= 8) | (sizes == sizes.max()))
    differing = kept != np.isin(expected, large)
    assert count > 10
    assert len(large) < count
    # Of several largest pieces one may be kept though it is small; here the largest is large.
    assert sizes.max() >= 8
    assert not differing.any()


def test_the_largest_piece_of_every_finding_stays_however_small():
    pieces = SliceComponents()
    plane = np.zeros((4, 12), bool)
    plane[1, [0, 2, 3, 6, 9, 10, 11]] = True
    marks = np.where(np.arange(12) < 5, 1, 2) * plane
    pieces.add(0, plane, marks)
    assert pieces.small_fragments(100).tolist() == [True, False, True, False]
    assert not pieces.small_fragments(0).any()
