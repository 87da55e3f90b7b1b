# SPDX-License-Identifier: Apache-2.0
"""Heights of bodies: exact shapes in any pose, grid and orientation; uncertainty; reasons where nothing can be measured."""

from __future__ import annotations

import numpy as np
import pytest
from body_scene import ORDER, ZONE_CENTRES, Scene, make_scene
from scripts.postprocessing.body_heights import BodyMeasurement, measure_vertebra, measure_vertebrae
from scripts.postprocessing.endplate_edges import CtSampler

L3 = 22


def wedge_heights(anterior: float, posterior: float) -> list[float]:
    return [posterior + (anterior - posterior) * (v + 1) / 2 for v in ZONE_CENTRES.values()]


def measured(scene: Scene, **options) -> BodyMeasurement:
    return measure_vertebra(scene.labels, scene.affine, L3, 21, 23, **options)


@pytest.fixture(scope="module")
def wedge() -> Scene:
    return make_scene(anterior=18.0, posterior=26.0)


@pytest.mark.parametrize("round_body", [False, True])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (3.0, 1.0, 1.0), (0.7, 0.9, 0.9)])
def test_exact_heights(spacing, round_body):
    scene = make_scene(spacing, round_body=round_body)
    np.testing.assert_allclose(measured(scene, body=scene.fraction).heights_mm, 26.0, atol=0.3)
    # A mask without partial volumes has whole voxels: half of one is the error.
    np.testing.assert_allclose(measured(scene).heights_mm, 26.0, atol=spacing[2] / 2)


def test_heights_of_a_wedge(wedge):
    np.testing.assert_allclose(measured(wedge).heights_mm, wedge_heights(18, 26), atol=0.5)


def test_middle_height_of_a_concave_body():
    a, m, p = measured(make_scene((1.5, 1.5, 1.5), concavity=8.0)).heights_mm
    assert m == pytest.approx(18.2, abs=0.7)
    assert min(a, p) > m + 2


@pytest.mark.parametrize("angles", [(20, 0, 0), (-15, 10, 0), (0, 12, 15), (10, 0, 40)])
def test_heights_do_not_depend_on_the_pose(angles):
    heights = measured(make_scene((1.5, 1.5, 1.5), anterior=20.0, angles=angles)).heights_mm
    np.testing.assert_allclose(heights, wedge_heights(20, 26), atol=0.6)


def test_heights_scale_with_the_body():
    small, large = (measured(make_scene(anterior=20.0, scale=s)) for s in (0.8, 1.0))
    np.testing.assert_allclose(np.array(small.heights_mm) / 0.8, large.heights_mm, atol=0.4)
    assert small.body_volume_ml == pytest.approx(large.body_volume_ml * 0.8**3, rel=0.05)


@pytest.mark.parametrize("codes", ["LPS", "PIR", "ASL"])
def test_orientation_of_the_array_does_not_matter(wedge, codes):
    other = wedge.reoriented(codes)
    first, second = (measured(s, hu=s.image) for s in (wedge, other))
    np.testing.assert_allclose(first.heights_mm, second.heights_mm, atol=0.05)
    np.testing.assert_allclose(first.centroid_mm, second.centroid_mm, atol=0.1)
    assert first.trabecular_hu == pytest.approx(second.trabecular_hu, abs=1)


def test_surroundings_do_not_matter(wedge):
    padding = ((9, 0), (4, 7), (30, 2))
    affine = wedge.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [p[0] for p in padding]
    padded = Scene(*(np.pad(a, padding) for a in (wedge.labels, wedge.image, wedge.distance)), affine)
    np.testing.assert_allclose(measured(wedge).heights_mm, measured(padded).heights_mm, atol=1e-6)


def test_one_vertebra_is_measured_as_among_all(wedge):
    together = measure_vertebrae(wedge.labels, wedge.affine, ORDER)
    assert list(together) == ORDER
    assert together[L3] == measured(wedge)


def test_heights_fall_with_the_simulated_loss():
    scenes = [make_scene((1.5, 1.5, 1.5), anterior=a) for a in (26, 23, 20, 17, 14)]
    heights = [measured(s, body=s.fraction).heights_mm for s in scenes]
    np.testing.assert_allclose(heights, [wedge_heights(a, 26) for a in (26, 23, 20, 17, 14)], atol=0.5)


def test_uncertainty_grows_with_the_voxels():
    sd = [np.mean(measured(make_scene((1.5, 1.5, z))).heights_sd_mm) for z in (1.0, 2.0, 3.5)]
    assert sd[0] < sd[1] < sd[2]
    assert sd[2] > 0.8


def test_uneven_endplates_are_less_certain(wedge):
    uneven = wedge.labels.copy()
    for k in range(len(uneven)):
        plane = uneven[k]
        uneven[k] = np.where((plane == L3) & (np.roll(plane, 1 + 2 * (k // 4 % 3), axis=1) != L3), 0, plane)
    rough = measure_vertebra(uneven, wedge.affine, L3, 21, 23)
    assert rough.heights_sd_mm[1] > measured(wedge).heights_sd_mm[1]


@pytest.mark.parametrize("label_mm", [1.0, 1.5])
def test_ct_places_endplates_of_a_body_that_is_too_low(label_mm):
    fine = make_scene((1.0, 1.0, 1.0), anterior=20.0)
    coarse = make_scene((label_mm,) * 3, anterior=20.0)
    probability = 1 / (1 + np.exp((coarse.distance + 1.0) / 0.6))
    by_mask = measured(coarse, body=probability)
    by_ct = measured(coarse, body=probability, hu=CtSampler(fine.image, fine.affine))
    truth = np.array(wedge_heights(20, 26))
    assert np.all(np.array(by_mask.heights_mm) < truth - 1.2)
    np.testing.assert_allclose(by_ct.heights_mm, truth, atol=1.2)
    assert np.all(np.array(by_ct.heights_sd_mm) < by_mask.heights_sd_mm)


def test_predicted_body_without_contrast_is_said_to_be_uncertain(wedge):
    flat = np.full_like(wedge.image, 60.0)
    result = measured(wedge, body=(wedge.distance < 0).astype(np.float32), hu=flat)
    assert "endplate not clear" in result.note
    assert min(result.heights_sd_mm) > 1.3


def test_body_mask_leaves_out_posterior_elements(wedge):
    solid = measured(wedge, body=wedge.distance < 0)
    np.testing.assert_allclose(solid.heights_mm, measured(wedge).heights_mm, atol=0.3)
    assert solid.body_volume_ml == pytest.approx(40 * 30 * 22 / 1000, rel=0.08)


def test_trabecular_hu_is_that_of_the_inside(wedge):
    result = measured(wedge, hu=wedge.image)
    assert result.trabecular_hu == pytest.approx(150, abs=5)
    assert result.trabecular_hu_sd < 5
    assert np.isnan(measured(wedge).trabecular_hu)


def test_metal_and_cement_are_uncertain(wedge):
    plain = measured(wedge, hu=wedge.image)
    inner = wedge.distance < -4
    for hu, region in ((2500, inner & (np.abs(np.indices(inner.shape)[0] - 32) < 3)), (1400, inner)):
        result = measured(wedge, hu=np.where(region, hu, wedge.image))
        assert result.note.startswith("metal or cement")
        assert result.heights_sd_mm[0] > 1.5 * plain.heights_sd_mm[0]


@pytest.mark.parametrize(
    ("case", "reason"),
    [("thick", "too thick"), ("single", "single slice"), ("absent", "not in the mask"), ("cut", "cut by the border")],
)
def test_reason_where_nothing_can_be_measured(wedge, case, reason):
    scene, label = wedge, L3
    if case == "thick":
        scene = make_scene((1.0, 1.0, 5.0))
    elif case == "single":
        scene = Scene(wedge.labels[32:33], wedge.image[32:33], wedge.distance[32:33], wedge.affine)
    elif case == "absent":
        label = 7
    else:
        top = int(np.argwhere(wedge.labels == 21)[:, 2].min() - 12)
        scene = Scene(wedge.labels[:, :, :top], wedge.image[:, :, :top], wedge.distance[:, :, :top], wedge.affine)
    result = measure_vertebra(scene.labels, scene.affine, label, hu=scene.image)
    assert reason in result.note
    assert np.isnan([*result.heights_mm, *result.heights_sd_mm, result.trabecular_hu, result.body_volume_ml]).all()


def test_coarse_ct_is_refused_on_a_fine_mask(wedge):
    coarse = make_scene((1.0, 1.0, 5.0), anterior=18.0)
    assert "too thick" in measured(wedge, hu=CtSampler(coarse.image, coarse.affine)).note


def test_float_labels_and_unknown_shapes_do_not_crash(wedge):
    assert measured(Scene(wedge.labels.astype(float), wedge.image, wedge.distance, wedge.affine)) == measured(wedge)
    speck = np.zeros((9, 9, 9), np.uint8)
    speck[4:6, 4:6, 4:6] = 1
    results = measure_vertebrae(speck, np.eye(4), [1, 2])
    assert all(r.note and np.isnan(r.heights_mm).all() for r in results.values())
