# SPDX-License-Identifier: Apache-2.0
"""Windows equal those of MONAI's sliding window; covers are complete; the fine pass contains the detections."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval
from scipy.ndimage import gaussian_filter
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


@pytest.mark.parametrize("seed", range(8))
def test_cover_contains_every_voxel_of_coarse_masks(seed):
    """Blobs of any size and position, on maps of one to five voxels, in images smaller and larger than a window."""
    rng = np.random.default_rng(seed)
    size, block = rng.integers(20, 220, 2), int(rng.integers(1, 6))
    grid = WindowGrid.plan(size.tolist(), (48, 64), 0.25)
    coordinates = [np.minimum(np.arange(-(-n // block)) * block + (block - 1) / 2, n - 1.0) for n in size]
    mask = gaussian_filter(rng.standard_normal([len(c) for c in coordinates]), 3) > rng.uniform(0, 0.08)
    chosen = grid.cover(mask, coordinates)
    covered = np.zeros(grid.padded, bool)
    for start in chosen:
        assert all(0 <= s <= p - w for s, p, w in zip(start, grid.padded, grid.window, strict=True))
        covered[tuple(slice(s, s + w) for s, w in zip(start, grid.window, strict=True))] = True
    image = covered[tuple(slice(b, b + n) for b, n in zip(grid.before, size, strict=True))]
    voxels = np.repeat(np.repeat(mask, block, 0), block, 1)[: size[0], : size[1]]
    assert image[voxels].all()
    assert grid.cover_all(chosen, mask, coordinates)
    assert mask.any()
    extents = [np.ptp(np.flatnonzero(mask.any(axis=1 - a))) * block + block for a in range(2)]
    assert len(chosen) <= np.prod([-(-e // max(w - block, 1)) for e, w in zip(extents, grid.window, strict=True)])


@pytest.mark.parametrize("first", [0, 37, 90, 112])
def test_a_column_is_covered_by_the_fewest_windows(first):
    """MONAI's grid, whose windows begin at fixed positions, divides such a column where two of them meet."""
    grid = WindowGrid.plan((239, 400), (128, 160), 0.25)
    coordinates = [np.arange(float(n)) for n in grid.size]
    mask = np.zeros(grid.size, bool)
    mask[first : first + 100] = True
    chosen = grid.cover(mask, coordinates)
    assert len(chosen) == 3
    # Three windows of 160 have 80 voxels more than the column: at least 20 around every border between two of them.
    edges = sorted(s for _, s in chosen)
    assert all(a + 160 - b >= 20 for a, b in itertools.pairwise(edges))
    low, high = grid.part(chosen)
    assert low[0] <= first
    assert high[0] >= first + 100
    assert (low[1], high[1]) == (0, 400)


def test_the_part_of_padded_axes_is_whole():
    grid = WindowGrid.plan((40, 300), (64, 64), 0.25)
    low, high = grid.part([(0, 20), (0, 100)])
    assert low.tolist() == [0, 20]
    assert high.tolist() == [40, 164]
    assert [v.tolist() for v in grid.part([])] == [[0, 0], [0, 0]]


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


def test_windows_do_not_cover_the_slit_between_them():
    """The centres of coarse voxels lie in the windows 3 to 34 and 38 to 69, some of their voxels in neither."""
    grid = WindowGrid.plan((16, 80), (16, 32), 0.25)
    coordinates = [np.arange(4) * 4 + 1.5, np.arange(20) * 4 + 1.5]
    mask = np.zeros((4, 20), bool)
    mask[:, 1:16] = True
    assert not grid.cover_all([(0, 3), (0, 38)], mask, coordinates)
    assert grid.cover_all([(0, 3), (0, 35)], mask, coordinates)
    assert np.array_equal(grid.covered([(0, 3)]), np.tile((np.arange(80) >= 3) & (np.arange(80) < 35), (16, 1)))
