# SPDX-License-Identifier: Apache-2.0
"""Simulated fractures: the height asked for, a positive Jacobian, and nothing else changed."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.core.genant import LOSS_BANDS, SHAPES, BodyHeights, grade_of
from scripts.postprocessing.vertebra_frame import FrameError, find_frame
from scripts.simulation.fracture.deformation import FracturePlan, simulate_fracture
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.spine_scan import SpineScan
from scripts.simulation.style import ScanStyle

L3 = 22


@pytest.fixture(scope="module")
def scan() -> SpineScan:
    return make_phantom(4, "lumbar", ScanStyle(spacing=(2.0, 1.25, 1.25)))


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("grade", [1, 2, 3])
def test_height_loss_lies_in_the_band_and_neighbours_keep_their_volume(scan, shape, grade):
    result = simulate_fracture(scan, FracturePlan(L3, shape, grade), np.random.default_rng(grade))
    record = result.fractures[-1]
    low, high = LOSS_BANDS[grade]
    assert low <= record[f"loss_{SHAPES[shape]}"] < high
    assert record["min_jacobian"] > 0
    for other in set(np.unique(scan.labels).tolist()) - {0, L3}:
        before, after = np.count_nonzero(scan.labels == other), np.count_nonzero(result.labels == other)
        assert abs(after / before - 1) < 0.02
    assert np.count_nonzero(result.labels == L3) < np.count_nonzero(scan.labels == L3)


def test_shapes_lose_height_where_their_name_says(scan):
    loss = {
        shape: simulate_fracture(scan, FracturePlan(L3, shape, 2), np.random.default_rng(1)).fractures[-1]
        for shape in SHAPES
    }
    assert loss["wedge"]["loss_anterior"] > loss["wedge"]["loss_posterior"] + 0.1
    assert loss["biconcave"]["loss_middle"] > loss["biconcave"]["loss_anterior"] + 0.05
    assert abs(loss["crush"]["loss_anterior"] - loss["crush"]["loss_posterior"]) < 0.1


def test_far_voxels_and_the_input_stay_as_they_are(scan):
    before = scan.image.copy()
    result = simulate_fracture(scan, FracturePlan(L3, "wedge", 3), np.random.default_rng(0))
    np.testing.assert_array_equal(scan.image, before)
    far = np.abs(np.argwhere(scan.labels == L3)[:, 2].mean() - np.arange(scan.image.shape[2])) * 1.25 > 60
    np.testing.assert_array_equal(result.image[:, :, far], scan.image[:, :, far])
    assert result.image.dtype == np.int16


def test_any_storage_orientation_gives_the_same_fracture(scan):
    def stored(codes: str) -> SpineScan:
        target = nib.orientations.axcodes2ornt(tuple(codes))
        turned = [
            nib.Nifti1Image(a, scan.affine).as_reoriented(
                nib.orientations.ornt_transform(nib.orientations.io_orientation(scan.affine), target)
            )
            for a in (scan.image, scan.labels)
        ]
        return SpineScan(np.asarray(turned[0].dataobj), np.asarray(turned[1].dataobj), turned[0].affine)

    plan = FracturePlan(L3, "biconcave", 2)
    ras = simulate_fracture(scan, plan, np.random.default_rng(2))
    pir = simulate_fracture(stored("PIR"), plan, np.random.default_rng(2))
    back = nib.as_closest_canonical(nib.Nifti1Image(pir.labels, pir.affine))
    assert np.mean(np.asarray(back.dataobj) != ras.labels) < 1e-3


def test_frame_finds_the_axes_of_a_tilted_body(scan):
    frame = find_frame(scan.labels, scan.affine, L3, 21, 23)
    np.testing.assert_allclose(frame.axes.T @ frame.axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(frame.axes) == pytest.approx(1.0)
    assert frame.axes[2, 2] > 0.85
    assert frame.axes[1, 1] > 0.85
    assert 20 < frame.heights.mean < 34


def test_a_neighbour_cut_by_the_border_does_not_tilt_the_frame(scan):
    # Only the spinous process of the vertebra above is left, as at the top of a scan.
    labels = scan.labels.copy()
    above = np.argwhere(labels == 21)
    body = above[above[:, 1] > np.percentile(above[:, 1], 25)]
    labels[tuple(body.T)] = 0
    whole, cut = (find_frame(mask, scan.affine, L3, 21, 23) for mask in (scan.labels, labels))
    assert np.degrees(np.arccos(np.clip(whole.axes[:, 2] @ cut.axes[:, 2], -1, 1))) < 12


def test_real_ct_takes_a_fracture_too(verse19):
    case = "sub-verse006"
    image = nib.load(verse19 / "rawdata" / case / f"{case}_ct.nii.gz")
    mask = nib.load(verse19 / "derivatives" / case / f"{case}_seg-vert_msk.nii.gz")
    real = SpineScan(
        np.asarray(image.dataobj).astype(np.int16), np.asarray(mask.dataobj).astype(np.uint8), image.affine
    )
    result = simulate_fracture(real, FracturePlan(23, "wedge", 3), np.random.default_rng(0))
    assert result.fractures[-1]["measured_grade"] == 3
    assert result.fractures[-1]["min_jacobian"] > 0


@pytest.mark.parametrize(("loss", "grade"), [(0.0, 0), (0.199, 0), (0.2, 1), (0.3, 2), (0.4, 3), (0.9, 3)])
def test_grades_follow_genant(loss, grade):
    assert grade_of(loss) == grade


def test_loss_is_relative_to_the_intact_height():
    loss = BodyHeights(15, 20, 25).loss_from(BodyHeights(30, 25, 25))
    assert loss["anterior"] == pytest.approx(0.5)
    assert loss["posterior"] == pytest.approx(0.0)


@pytest.mark.parametrize("arguments", [(L3, "burst", 1), (L3, "wedge", 4)])
def test_unknown_plans_are_refused(arguments):
    with pytest.raises(ValueError, match="give"):
        FracturePlan(*arguments)


def test_a_vertebra_that_is_not_there_is_named(scan):
    with pytest.raises(FrameError, match="vertebra 3"):
        simulate_fracture(scan, FracturePlan(3, "wedge", 1), np.random.default_rng(0))
