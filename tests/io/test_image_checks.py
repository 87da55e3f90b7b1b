# SPDX-License-Identifier: Apache-2.0
"""Issues of one case: geometry and values of the CT, values of the label."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.io.image_checks import geometry_issues, inspect_case, label_issues, value_issues

AFFINE = np.diag([10.0, 10.0, 10.0, 1.0])


@pytest.mark.parametrize(
    ("low", "high", "code"), [(-1000, 1500, None), (-150, 1300, None), (0, 255, "8-bit"), (0, 1, "rescaled"), (-1, 1, "rescaled")]
)
def test_value_ranges_that_are_not_hu_are_distinguished(low, high, code):
    issues = value_issues("ct.nii", np.linspace(low, high, 50), expect_hu=True)
    assert [i.code for i in issues] == ([code] if code else [])
    assert value_issues("ct.nii", np.linspace(low, high, 50), expect_hu=False) == []


def test_defects_of_the_grid_are_named():
    data = np.zeros((20, 20, 20), np.int16)
    sheared = np.diag([3.0, 3.0, 3.0, 1.0])
    sheared[1, 2] = 0.3
    singular = np.diag([3.0, 0.0, 3.0, 1.0])
    small = np.diag([1.0, 3.0, 3.0, 1.0])
    for affine, code in ((sheared, "sheared"), (singular, "affine"), (small, "small-field")):
        image = nib.Nifti1Image(data, np.eye(4))
        image._affine = affine  # nibabel's headers cannot hold all of these
        assert code in [i.code for i in geometry_issues("x.mha", image)]
    image = nib.Nifti1Image(data, AFFINE)
    image.set_qform(np.diag([10.0, 10.0, -10.0, 1.0]), code=1)
    assert [i.code for i in geometry_issues("x.nii", image)] == ["two-affines"]
    image = nib.Nifti1Image(data, AFFINE)
    image.set_sform(None)
    image.set_qform(None)
    assert "no-orientation" in [i.code for i in geometry_issues("x.nii", image)]


def test_an_oblique_grid_has_no_issue():
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]) * 3
    assert geometry_issues("x.nii", nib.Nifti1Image(np.zeros((20, 20, 20), np.int16), affine)) == []


def test_empty_labels_are_warnings_and_fractions_errors():
    assert [i.severity for i in label_issues("m", np.zeros(5), (0, 1))] == ["warning"]
    assert [i.code for i in label_issues("m", np.array([0, 0.5, 1]), (0, 1))] == ["label-values"]
    assert [i.code for i in label_issues("m", np.array([0, np.nan]), (0, 1))] == ["nan"]


def test_a_missing_dicom_slice_is_one_issue(tmp_path):
    pytest.importorskip("pydicom")
    from dicom_files import write_series

    volume = np.random.default_rng(0).integers(-1000, 1500, (6, 5, 4)).astype(np.int16)
    files = write_series(tmp_path / "s", volume)
    assert [i for i in inspect_case({"image": str(tmp_path / "s")})[0] if i.severity == "error"] == []
    files[2].unlink()
    (issue,) = inspect_case({"image": str(tmp_path / "s")})[0]
    assert "missing" in issue.line
    assert issue.line.count(str(tmp_path / "s")) == 1
