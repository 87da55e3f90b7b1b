# SPDX-License-Identifier: Apache-2.0
"""Masks of vertebrae that end within the cortex grow to its outer edge, and to nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from scripts.postprocessing.cortex_surface import include_cortex, surface_box

SPACING = (1.5, 1.5, 1.5)
MUSCLE, MARROW, CORTEX = 40, 150, 700


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Voxels (R, A, S) within ``radius`` voxels of a centre."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return np.linalg.norm(grid - np.array(centre), axis=-1) <= radius


def bones(centres=((12, 12, 12),), radius: float = 8, shape: tuple[int, ...] = (25, 25, 25)) -> tuple[np.ndarray, np.ndarray]:
    """True labels and HU of balls of marrow within a cortex of two voxels."""
    labels, hu = np.zeros(shape, np.uint8), np.full(shape, MUSCLE, np.int16)
    for number, centre in enumerate(centres, 1):
        bone = ball(shape, centre, radius)
        labels[bone] = number
        hu[bone] = CORTEX
        hu[ball(shape, centre, radius - 2)] = MARROW
    return labels, hu


def eroded(labels: np.ndarray, outside: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Labels one voxel smaller, and probabilities of vertebra with their surface."""
    smaller = np.zeros_like(labels)
    for number in np.unique(labels)[1:]:
        smaller[binary_erosion(labels == number)] = number
    return smaller, np.where(smaller > 0, 0.9, outside).astype(np.float16)


def test_mask_within_the_cortex_grows_to_its_edge():
    labels, hu = bones()
    smaller, probability = eroded(labels)
    grown, surface = include_cortex(smaller, probability, hu, SPACING)
    np.testing.assert_array_equal(grown, labels)
    assert (surface[labels > 0] >= 0.5).all()
    assert (surface[labels == 0] < 0.5).all()


def test_whole_mask_stays_as_it_is():
    labels, hu = bones()
    probability = np.where(labels > 0, 0.9, 0.2).astype(np.float16)
    grown, surface = include_cortex(labels, probability, hu, SPACING)
    np.testing.assert_array_equal(grown, labels)
    np.testing.assert_array_equal(surface[labels > 0], probability[labels > 0])


def test_arguments_are_not_changed():
    labels, hu = bones()
    smaller, probability = eroded(labels)
    before = smaller.copy(), probability.copy(), hu.copy()
    include_cortex(smaller, probability, hu, SPACING)
    for array, copy in zip((smaller, probability, hu), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(("reach_mm", "voxels"), [(1.4, 0), (1.5, 1), (2.9, 1), (3.0, 2)])
def test_growth_ends_at_the_reach(reach_mm, voxels):
    labels, hu = bones()
    hu[labels > 0] = CORTEX
    core = ball(labels.shape, (12, 12, 12), 3)
    grown, _ = include_cortex(core.astype(np.uint8), np.where(core, 0.9, 0.2).astype(np.float16), hu, SPACING, reach_mm)
    along = grown[12:, 12, 12]
    assert np.count_nonzero(along) == 4 + voxels


def test_axis_with_thick_voxels_takes_no_part():
    labels, hu = bones()
    smaller, probability = eroded(labels)
    grown, _ = include_cortex(smaller, probability, hu, (3.0, 1.0, 1.0))
    assert np.count_nonzero(grown[:, 12, 12]) == np.count_nonzero(smaller[:, 12, 12])
    assert np.count_nonzero(grown[12, :, 12]) == np.count_nonzero(labels[12, :, 12])


@pytest.mark.parametrize("voxel", [1.4995, 1.5, 1.501])
def test_spacing_within_the_tolerance_of_resampling_takes_part(voxel):
    labels, hu = bones()
    smaller, probability = eroded(labels)
    grown, _ = include_cortex(smaller, probability, hu, (voxel,) * 3)
    np.testing.assert_array_equal(grown, labels)


def test_bone_that_was_left_out_does_not_return():
    """Such as the sacrum below L5, which the network marks as well."""
    labels, hu = bones(((12, 12, 9), (12, 12, 26)), shape=(25, 25, 36))
    kept = np.where(labels == 1, labels, 0)
    grown, surface = include_cortex(kept, np.where(labels > 0, 0.9, 0.2).astype(np.float16), hu, SPACING)
    np.testing.assert_array_equal(grown, kept)
    assert (surface[(kept == 0) & (labels == 0)] < 0.5).all()


def test_voxel_between_two_vertebrae_is_not_added():
    labels = np.zeros((9, 9, 15), np.uint8)
    labels[2:7, 2:7, 1:7], labels[2:7, 2:7, 8:14] = 1, 2
    hu = np.full(labels.shape, CORTEX, np.int16)
    grown, _ = include_cortex(labels, np.where(labels > 0, 0.9, 0.4).astype(np.float16), hu, SPACING)
    assert not grown[2:7, 2:7, 7].any()
    assert (grown[1, 2:7, 1:7] == 1).all()


def test_what_the_network_excludes_is_left_out():
    labels, hu = bones()
    smaller, probability = eroded(labels, outside=0.01)  # such as a vessel with contrast beside the bone
    grown, surface = include_cortex(smaller, probability, hu, SPACING)
    np.testing.assert_array_equal(grown, smaller)
    np.testing.assert_array_equal(surface, probability)


def test_neighbours_stay_apart_and_lose_nothing():
    labels, hu = bones(((12, 12, 9), (12, 12, 26)), shape=(25, 25, 36))
    labels[:, :, :18][labels[:, :, :18] > 0] = 1
    smaller, probability = eroded(labels)
    grown, _ = include_cortex(smaller, probability, hu, SPACING)
    for number in (1, 2):
        assert (grown[smaller == number] == number).all()
        np.testing.assert_array_equal(grown == number, labels == number)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror_image_has_the_mirrored_mask(axis):
    rng = np.random.default_rng(axis)
    labels, hu = bones(((12, 12, 9), (12, 12, 26)), shape=(25, 25, 36))
    hu = (gaussian_filter(hu.astype(float), 0.8) + rng.normal(0, 30, hu.shape)).astype(np.int16)
    smaller, probability = eroded(labels)
    grown, surface = include_cortex(smaller, probability, hu, SPACING)
    mirrored = include_cortex(*(np.flip(a, axis) for a in (smaller, probability, hu)), SPACING)
    np.testing.assert_array_equal(np.flip(mirrored[0], axis), grown)
    np.testing.assert_allclose(np.flip(mirrored[1], axis), surface, atol=2e-3)


def test_denser_cortex_moves_the_surface_outwards():
    """Between voxels the surface follows the HU: the first voxel outside is nearer to one half the more bone it has."""
    labels, hu = bones()
    shell = ball(labels.shape, (12, 12, 12), 9) & (labels == 0)
    probability = np.where(labels > 0, 0.9, 0.1).astype(np.float16)
    means = []
    for partial in (MUSCLE, 150, 250, 350):
        hu[shell] = partial
        means.append(float(include_cortex(labels, probability, hu, SPACING)[1][shell].astype(float).mean()))
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.05
    assert means[-1] < 0.5


def test_metal_does_not_raise_the_edge_of_bone():
    """The HU of a screw are limited, so that the cortex around it still grows; halfway to 3000 HU no bone would."""
    labels, hu = bones()
    hu[11:14, 11:14, :] = np.where(labels[11:14, 11:14, :] > 0, 3000, MUSCLE)
    smaller, probability = eroded(labels)
    grown, _ = include_cortex(smaller, probability, hu, SPACING)
    assert np.count_nonzero(grown) > 0.97 * np.count_nonzero(labels)


def test_box_holds_all_that_decides():
    labels, hu = bones(((20, 20, 20),), shape=(40, 40, 40))
    smaller, probability = eroded(labels)
    box = surface_box(smaller, SPACING, 1.5)
    whole = include_cortex(smaller, probability, hu, SPACING)
    part = include_cortex(smaller[box], probability[box], hu[box], SPACING)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[box], other)
    assert np.count_nonzero(whole[0]) == np.count_nonzero(part[0])


def test_box_without_a_vertebra():
    with pytest.raises(ValueError, match="no vertebra"):
        surface_box(np.zeros((4, 4, 4), np.uint8), SPACING, 1.5)
