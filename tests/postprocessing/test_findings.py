# SPDX-License-Identifier: Apache-2.0
"""Findings equal those of scikit-image; every setting has its effect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.postprocessing.findings import PostProcessing, connected_components
from skimage.measure import label, regionprops


@pytest.fixture
def probabilities():
    rng = np.random.default_rng(4)
    smooth = gaussian_filter(rng.random((30, 40, 50)), 2)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float16)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7)])
def test_findings_and_their_order_equal_scikit_image(probabilities, spacing):
    settings = PostProcessing(threshold=0.6, min_volume_ml=0.03, min_width_mm=0)
    volume = probabilities.copy()
    numbers = settings(volume, spacing)
    regions = regionprops(label(probabilities > np.float16(0.6), connectivity=1))
    sizes = sorted((r.num_pixels for r in regions if r.num_pixels * np.prod(spacing) >= 30), reverse=True)
    inside = np.where(volume > 0.6, numbers, 0)
    assert [int((inside == n).sum()) for n in range(1, int(numbers.max()) + 1)] == sizes
    assert int((volume > 0.6).sum()) == sum(sizes)


def test_numbers_extend_one_voxel_beyond_their_finding(probabilities):
    volume = probabilities.copy()
    numbers = PostProcessing(threshold=0.6, min_volume_ml=0, min_width_mm=0)(volume, (1, 1, 1))
    components = label(probabilities > np.float16(0.6), connectivity=1)
    for n in range(1, int(numbers.max()) + 1):
        assert len(np.unique(components[(numbers == n) & (components > 0)])) == 1
    assert (numbers > 0).sum() > (components > 0).sum()


def test_higher_threshold_never_adds_voxels(probabilities):
    marked = []
    for threshold in (0.4, 0.5, 0.6, 0.7):
        volume = probabilities.copy()
        PostProcessing(threshold=threshold, min_volume_ml=0.05, min_width_mm=0)(volume, (1, 1, 1))
        marked.append(int((volume > threshold).sum()))
    assert marked == sorted(marked, reverse=True)


def test_narrow_findings_are_dropped():
    volume = np.zeros((40, 20, 30), np.float16)
    volume[2:9, 2:18, 2:12] = 0.9  # 7 voxels wide
    volume[20:30, 2:10, 2:12] = 0.9  # 10 voxels wide, with a narrow part that belongs to it
    volume[24:26, 10:18, 2:12] = 0.9
    volume[2:8, 2:6, 20:24] = 0.9
    volume[9:16, 2:6, 20:24] = 0.9  # 13 voxels in all, with a gap
    remaining = {}
    for width in (0, 16, 21):
        shown = volume.copy()
        numbers = PostProcessing(min_volume_ml=0, min_width_mm=width)(shown, (2.0, 1.0, 1.0))
        remaining[width] = (int(numbers.max()), int((shown > 0.5).sum()))
    assert remaining == {0: (4, int((volume > 0.5).sum())), 16: (1, 10 * 80 + 2 * 80), 21: (0, 0)}


def test_holes_are_filled_and_the_largest_selected():
    volume = np.zeros((20, 20, 40), np.float16)
    volume[2:12, 2:12, 2:12] = 0.9
    volume[6, 6, 6] = 0.1
    volume[2:6, 2:6, 20:24] = 0.9
    filled = volume.copy()
    numbers = PostProcessing(min_volume_ml=0, min_width_mm=0, fill_holes=True, largest=1)(filled, (1, 1, 1))
    assert filled[6, 6, 6] == 1
    assert int(numbers.max()) == 1
    assert not (filled[:, :, 20:] > 0.5).any()
    plain = volume.copy()
    assert int(PostProcessing(min_volume_ml=0, min_width_mm=0)(plain, (1, 1, 1)).max()) == 2
    assert np.array_equal(plain, volume)


def test_no_finding_and_an_empty_box():
    assert not PostProcessing()(np.zeros((4, 5, 6), np.float16), (1, 1, 1)).any()
    assert PostProcessing()(np.zeros((0, 5, 6), np.float16), (1, 1, 1)).shape == (0, 5, 6)


@pytest.mark.parametrize(
    ("name", "value"), [("threshold", 0.0), ("threshold", 1), ("min_volume_ml", -1), ("largest", 0), ("min_width_mm", -3)]
)
def test_values_out_of_range_are_rejected_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        PostProcessing(**{name: value})


def test_an_island_in_a_cavity_is_part_of_the_finding_around_it():
    volume = np.zeros((20, 20, 20), np.float16)
    volume[2:16, 2:16, 2:16] = 0.9
    volume[4:14, 4:14, 4:14] = 0.1
    volume[7:11, 7:11, 7:11] = 0.9
    components = connected_components(volume > 0.5, (1, 1, 1), fill_holes=True)
    assert [c.voxels for c in components] == [14**3]
    settings = PostProcessing(min_volume_ml=0.5, min_width_mm=0, fill_holes=True)
    filtered = settings.filter_mask(volume > 0.5, (1, 1, 1))
    numbers = settings(volume, (1, 1, 1))
    assert np.array_equal(volume > 0.5, filtered)
    assert filtered.sum() == 14**3
    assert int(numbers.max()) == 1
