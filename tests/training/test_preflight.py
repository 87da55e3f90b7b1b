# SPDX-License-Identifier: Apache-2.0
"""Training does not start with missing or damaged data."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.datalist import load_datalist
from scripts.training.preflight import preflight

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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ('{"training": []}', "no `training` case"),
        ("{", "not valid JSON"),
        ('{"training": 3}', "must be a list"),
        ("[]", "must be a list"),
    ],
)
def test_missing_or_empty_sections_are_refused(tmp_path, content, words):
    path = tmp_path / "datalist.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        preflight({"training": load_datalist(str(path), "training")}, source=str(path))


def test_damaged_cases_are_refused(valid_case, tmp_path):
    preflight({"training": [valid_case]})
    bad = {**valid_case, "image": str(tmp_path / "nowhere.nii.gz")}
    with pytest.raises(InputError, match="nothing was started"):
        preflight({"training": [valid_case, bad]})
    preflight({"training": [bad]}, level="off")
