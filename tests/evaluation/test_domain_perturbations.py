# SPDX-License-Identifier: Apache-2.0
"""Changes of a scan: noise of the requested size, slices of the requested thickness, and a way back for every geometric change."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.evaluation.domain_perturbations import ORIGINAL, add_noise, perturbations, thick_slices

SPACING = (1.5, 1.5, 1.5)


def smooth_volume(shape=(40, 36, 44), seed: int = 0) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 5.0)
    return np.round(1000 * field / np.abs(field).max()).astype(np.int16)


@pytest.mark.parametrize("change", [ORIGINAL, *perturbations(SPACING)], ids=lambda p: p.name)
def test_shape_type_and_input_are_kept(change):
    volume = smooth_volume()
    before = volume.copy()
    changed = change.apply(volume)
    assert (changed.shape, changed.dtype) == (volume.shape, np.int16)
    np.testing.assert_array_equal(volume, before)
    np.testing.assert_array_equal(change.apply(volume), changed)


@pytest.mark.parametrize("name", ["mirrored", "shifted", "rotated 5 deg"])
def test_geometric_changes_have_a_way_back(name):
    change = next(p for p in perturbations(SPACING) if p.name == name)
    volume = smooth_volume()
    changed = change.apply(volume)
    inner = (slice(6, -6),) * 3
    before = np.abs(changed - volume.astype(int))[inner].mean()
    after = np.abs(change.restore(changed) - volume.astype(int))[inner].mean()
    assert before > 5 * after
    restored = change.restore(change.apply(volume.astype(np.float32)))
    assert np.corrcoef(restored[inner].ravel(), volume[inner].ravel())[0, 1] > 0.99


def test_rotation_is_by_its_angle_in_millimetres():
    """The centre of mass of a small ball moves along the chord of 5 degrees, on a grid of unequal voxels too."""
    spacing = np.array((3.0, 1.5, 1.5))
    change = perturbations(spacing)[-1]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (41, 81, 81)), indexing="ij"), -1) - (20, 40, 40)
    offset = np.array((30.0, -30.0, 0.0))  # across the axis of the rotation
    ball = np.exp(-0.5 * (np.linalg.norm(index * spacing - offset, axis=-1) / 6) ** 2).astype(np.float32)
    moved = change.apply(ball)
    centre = (index * spacing * moved[..., None]).sum((0, 1, 2)) / moved.sum()
    chord = 2 * np.linalg.norm(offset) * np.sin(np.radians(5.0) / 2)
    assert np.linalg.norm(centre - offset) == pytest.approx(chord, rel=0.05)
    assert np.linalg.norm(centre) == pytest.approx(np.linalg.norm(offset), rel=0.01)


@pytest.mark.parametrize("correlation", [0.0, 1.5])
@pytest.mark.parametrize("std", [10.0, 60.0])
def test_noise_has_its_standard_deviation(std, correlation):
    added = add_noise(np.zeros((64, 64, 20), np.int16), std, correlation).astype(float)
    assert added.std() == pytest.approx(std, rel=0.03)
    assert abs(added.mean()) < 0.1 * std
    in_plane = np.corrcoef(added[1:].ravel(), added[:-1].ravel())[0, 1]
    along = np.corrcoef(added[..., 1:].ravel(), added[..., :-1].ravel())[0, 1]
    assert (in_plane > 0.7) if correlation else (abs(in_plane) < 0.05)
    assert abs(along) < 0.05


def test_noise_does_not_wrap_around():
    top = add_noise(np.full((8, 8, 4), 32760, np.int16), 60.0)
    assert top.min() > 30000


def test_thick_slices_average_over_their_thickness():
    volume = np.zeros((2, 2, 60), np.int16)
    volume[:, :, 30:] = 1000
    thick = thick_slices(volume, 1.0, 5.0)[0, 0]
    assert thick[:25].max() == 0
    assert thick[35:].min() == 1000
    assert (np.diff(thick.astype(int)) >= 0).all()
    assert np.count_nonzero((thick > 0) & (thick < 1000)) >= 4
    np.testing.assert_array_equal(thick_slices(np.full((3, 3, 17), 70, np.int16), 1.5, 5.0), 70)
    np.testing.assert_array_equal(thick_slices(smooth_volume(), 1.5, 1.5), smooth_volume())


def test_a_scan_thinner_than_one_slice_is_its_mean():
    volume = np.array([[[0, 30, 60]]], np.int16)
    np.testing.assert_array_equal(thick_slices(volume, 1.0, 5.0), [[[30, 30, 30]]])


def test_slices_that_the_scan_has_already_are_skipped():
    reasons = {p.name: p.skipped for p in perturbations(SPACING, stored_mm=3.27)}
    assert "3.3 mm" in reasons.pop("slices of 3 mm")
    assert not any(reasons.values())


def test_each_of_several_planes_is_also_used_alone():
    assert not [p for p in perturbations(SPACING, planes=["sagittal"]) if p.plane]
    assert [p.plane for p in perturbations(SPACING, planes=["sagittal", "axial"]) if p.plane] == ["sagittal", "axial"]


def test_a_scan_has_at_most_ten_passes():
    assert 1 + len(perturbations(SPACING, planes=["sagittal"])) <= 10
