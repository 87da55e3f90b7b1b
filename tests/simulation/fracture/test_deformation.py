# SPDX-License-Identifier: Apache-2.0
"""Simulated fractures: the planned height loss, a positive Jacobian, and nothing else changed."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.core.genant import LOSS_BANDS, SHAPES
from scripts.postprocessing.vertebra_frame import FrameError
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
def test_height_loss_in_band_and_neighbours_unchanged(scan, shape, grade):
    result = simulate_fracture(scan, FracturePlan(L3, shape, grade), np.random.default_rng(grade))
    record = result.fractures[-1]
    low, high = LOSS_BANDS[grade]
    assert low <= record[f"loss_{SHAPES[shape]}"] < high
    assert record["min_jacobian"] > 0
    for other in set(np.unique(scan.labels).tolist()) - {0, L3}:
        before, after = np.count_nonzero(scan.labels == other), np.count_nonzero(result.labels == other)
        assert abs(after / before - 1) < 0.02
    assert np.count_nonzero(result.labels == L3) < np.count_nonzero(scan.labels == L3)


def test_shape_determines_zone_of_height_loss(scan):
    loss = {shape: simulate_fracture(scan, FracturePlan(L3, shape, 2), np.random.default_rng(1)).fractures[-1] for shape in SHAPES}
    assert loss["wedge"]["loss_anterior"] > loss["wedge"]["loss_posterior"] + 0.1
    assert loss["biconcave"]["loss_middle"] > loss["biconcave"]["loss_anterior"] + 0.05
    assert abs(loss["crush"]["loss_anterior"] - loss["crush"]["loss_posterior"]) < 0.1


def test_distant_voxels_and_input_are_unchanged(scan):
    before = scan.image.copy()
    result = simulate_fracture(scan, FracturePlan(L3, "wedge", 3), np.random.default_rng(0))
    np.testing.assert_array_equal(scan.image, before)
    far = np.abs(np.argwhere(scan.labels == L3)[:, 2].mean() - np.arange(scan.image.shape[2])) * 1.25 > 60
    np.testing.assert_array_equal(result.image[:, :, far], scan.image[:, :, far])
    assert result.image.dtype == np.int16


def test_fracture_is_independent_of_orientation(scan):
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


def test_fracture_in_a_real_ct(verse19):
    case = "sub-verse006"
    image = nib.load(verse19 / "rawdata" / case / f"{case}_ct.nii.gz")
    mask = nib.load(verse19 / "derivatives" / case / f"{case}_seg-vert_msk.nii.gz")
    real = SpineScan(np.asarray(image.dataobj).astype(np.int16), np.asarray(mask.dataobj).astype(np.uint8), image.affine)
    result = simulate_fracture(real, FracturePlan(23, "wedge", 3), np.random.default_rng(0))
    assert result.fractures[-1]["measured_grade"] == 3
    assert result.fractures[-1]["min_jacobian"] > 0


@pytest.mark.parametrize("arguments", [(L3, "burst", 1), (L3, "wedge", 4)])
def test_invalid_plan_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        FracturePlan(*arguments)


def test_missing_vertebra_is_named(scan):
    with pytest.raises(FrameError, match="vertebra 3"):
        simulate_fracture(scan, FracturePlan(3, "wedge", 1), np.random.default_rng(0))
