# SPDX-License-Identifier: Apache-2.0
"""Each kind of broken case gives one line with file, value and remedy, and the good cases stay good."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.checks.cases import check_cases
from scripts.data.datalist import load_datalist
from scripts.data.split import split_by_patient
from scripts.training.preflight import preflight

AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])


def save(path, array, affine=AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def good(tmp_path) -> dict:
    image = np.random.default_rng(0).normal(40, 30, (6, 7, 8)).astype(np.float32)
    label = np.zeros((6, 7, 8), np.uint8)
    label[2:4, 2:4, 2:4] = 1
    return {"image": save(tmp_path / "ct.nii.gz", image), "label": save(tmp_path / "mask.nii.gz", label)}


def test_a_good_case_has_no_problem(good):
    assert check_cases([good]) == []


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
        (constant_image, "holds no image"),
        (four_dimensions, "three-dimensional"),
        (missing_image, "does not exist"),
        (truncated_image, "truncated"),
    ],
)
def test_each_defect_is_named_with_its_file(good, tmp_path, spoil, words):
    case = dict(good)
    spoil(case, tmp_path)
    problems = check_cases([good, case, good])
    assert len(problems) == 1
    assert "bad.nii.gz" in problems[0]
    assert words in problems[0]
    assert "\n" not in problems[0]


def test_an_item_without_image_is_refused():
    assert "no `image`" in check_cases([{"label": "x.nii"}])[0]


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
def test_missing_or_empty_data_end_the_run(tmp_path, content, words):
    path = tmp_path / "datalist.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        preflight({"training": load_datalist(str(path), "training")}, source=str(path))


def test_preflight_stops_at_a_broken_case_and_passes_good_ones(good, tmp_path):
    preflight({"training": [good]})
    bad = {**good, "image": str(tmp_path / "nowhere.nii.gz")}
    with pytest.raises(InputError, match="nothing was started"):
        preflight({"training": [good, bad]})
    preflight({"training": [bad]}, level="off")


def test_datalist_paths_are_relative_to_its_folder(tmp_path):
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{"image": "a/b.nii.gz", "label": "c.nii.gz"}]}))
    case = load_datalist(str(tmp_path / "datalist.json"), "training")[0]
    assert case == {"image": str(tmp_path / "a/b.nii.gz"), "label": str(tmp_path / "c.nii.gz")}


def test_split_keeps_patients_together_and_spreads_fractures():
    patients = [f"p{i // 2}" for i in range(100)]
    fractured = [i // 2 % 3 == 0 for i in range(100)]
    split = split_by_patient(patients, fractured, seed=1)
    sets = [{patients[i] for i in part} for part in split.values()]
    assert sum(map(len, sets)) == len(set().union(*sets)) == 50
    assert [len(s) for s in sets] == pytest.approx([35, 5, 10], abs=1)
    shares = [np.mean([fractured[i] for i in part]) for part in split.values()]
    assert max(shares) - min(shares) < 0.25
    assert split == split_by_patient(patients, fractured, seed=1)
    assert split != split_by_patient(patients, fractured, seed=2)


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_small_sets_fill_every_section(n):
    split = split_by_patient([str(i) for i in range(n)], [True] * n)
    assert all(split.values())
