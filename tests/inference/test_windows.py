# SPDX-License-Identifier: Apache-2.0
"""Windows equal those of MONAI's sliding window; covers are complete; the fine pass contains the detections."""

from __future__ import annotations

import numpy as np
import pytest
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval
from scripts.inference.regions import region_around
from scripts.inference.windows import WindowGrid


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [
        ((358, 600), (256, 256), 0.25),
        ((256, 256), (256, 256), 0.25),
        ((100, 300), (256, 256), 0.5),
        ((90, 80, 70), (32, 48, 64), 0.6),
        ((257, 2000), (256, 256), 0.0),
    ],
)
def test_windows_equal_those_of_monai(size, window, overlap):
    grid = WindowGrid.plan(size, window, overlap)
    interval = _get_scan_interval(grid.padded, window, len(size), [overlap] * len(size))
    expected = {tuple(s.start for s in w) for w in dense_patch_slices(grid.padded, window, interval)}
    assert set(grid.all()) == expected
    assert grid.before == tuple(max(w - n, 0) // 2 for n, w in zip(size, window, strict=True))


def test_cover_contains_a_mask_with_few_windows():
    rng = np.random.default_rng(0)
    grid = WindowGrid.plan((400, 900), (256, 256), 0.25)
    coordinates = [np.arange(n) * 4.0 + 1 for n in (100, 225)]
    for fraction in (0.0005, 0.01, 1.0):
        mask = rng.random((100, 225)) < fraction
        chosen = grid.cover(mask, coordinates)
        covered = np.zeros_like(mask)
        for start in chosen:
            covered[grid._ranges(start, coordinates)] = True
        assert covered[mask].all()
        assert len(chosen) <= len(grid.touching(mask, coordinates)) <= len(grid.all())
    assert grid.cover(np.zeros((100, 225), bool), coordinates) == []


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_fine_region_contains_detections_and_surroundings(axis):
    shape = (40, 50, 60)
    others = [n for a, n in enumerate(shape) if a != axis]
    detection = np.zeros(others, bool)
    detection[20:24, 30] = True
    region = region_around(shape, axis, [(12, detection), (18, np.zeros(others, bool))], slice_margin=6)
    slices = np.arange(shape[axis])
    assert region.intersects_slices(axis, slices)[6:19].all()
    assert not region.intersects_slices(axis, slices)[20:].any()
    grid = WindowGrid.plan(others, (16, 16), 0.25)
    for start in grid.touching(detection, [np.arange(float(n)) for n in others]):
        assert start in grid.touching(*region.plane(axis, 15))
