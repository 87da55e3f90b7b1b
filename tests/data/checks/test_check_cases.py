# SPDX-License-Identifier: Apache-2.0
"""Every kind of defect is one line with file, value and remedy; valid cases have none."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.data.checks.cases import check_cases

AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])


def save(path, array, affine=AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def valid_case(tmp_path) -> dict:
    image = np.random.default_rng(0).normal(40, 30, (6, 7, 8)).astype(np.float32)
    label = np.zeros((6, 7, 8), np.uint8)
    label[2:4, 2:4, 2:4] = 1
    return {"image": save(tmp_path / "ct.nii.gz", image), "label": save(tmp_path / "mask.nii.gz", label)}


def test_a_valid_case_has_no_issue(valid_case):
    assert check_cases([valid_case]) == []


def other_shape(case, folder):
    case["label"] = save(folder / "bad.nii.gz", np.zeros((6, 7, 9), np.uint8))


def other_affine(case, folder):
    moved = AFFINE.copy()
    moved[0, 3] = 3.0
    case["label"] = save(folder / "bad.nii.gz", np.zeros((6, 7, 8), np.uint8), moved)


def other_values(case, folder):
    case["label"] = save(folder / "bad.nii.gz", np.full((6, 7, 8), 20, np.uint8))


def nan_image(case, folder):
    image = np.zeros((6, 7, 8), np.float32)
    image[1, 1, 1] = np.nan
    case["image"] = save(folder / "bad.nii.gz", image)


def constant_image(case, folder):
    case["image"] = save(folder / "bad.nii.gz", np.zeros((6, 7, 8), np.float32))


def four_dimensions(case, folder):
    case["image"] = save(folder / "bad.nii.gz", np.random.default_rng(0).normal(size=(6, 7, 8, 2)).astype(np.float32))


def missing_image(case, folder):
    case["image"] = str(folder / "bad.nii.gz")


def truncated_image(case, folder):
    whole = (folder / "ct.nii.gz").read_bytes()
    (folder / "bad.nii.gz").write_bytes(whole[: len(whole) // 2])
    case["image"] = str(folder / "bad.nii.gz")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (other_shape, "resample the label"),
        (other_affine, "3.00 mm off"),
        (other_values, "values 20"),
        (nan_image, "NaN"),
        (constant_image, "contains no image"),
        (four_dimensions, "three-dimensional"),
        (missing_image, "does not exist"),
        (truncated_image, "truncated"),
    ],
)
def test_each_defect_is_named_with_its_file(valid_case, tmp_path, spoil, words):
    case = dict(valid_case)
    spoil(case, tmp_path)
    problems = check_cases([valid_case, case, valid_case])
    assert len(problems) == 1
    assert "bad.nii.gz" in problems[0]
    assert words in problems[0]
    assert "\n" not in problems[0]


def test_an_item_without_image_is_refused():
    assert "no `image`" in check_cases([{"label": "x.nii"}])[0]
