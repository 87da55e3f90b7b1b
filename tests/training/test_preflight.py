# SPDX-License-Identifier: Apache-2.0
"""Training does not start with missing or damaged data."""

from __future__ import annotations

import json

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


def test_empty_sections_of_a_training_are_warned_of(tmp_path, valid_case, caplog):
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": [valid_case], "testing": []}))
    preflight({"training": [valid_case], "validation": []}, source=str(path), level="off", workers=0)
    assert len(caplog.messages) == 2
    for message, name in zip(caplog.messages, ("validation", "testing"), strict=True):
        assert message.startswith(f"{path}: has no `{name}` case")
        assert f" data split {path}" in message
    caplog.clear()
    path.write_text(json.dumps({"training": [valid_case], "testing": [valid_case]}))
    preflight({"training": [valid_case], "validation": [valid_case]}, source=str(path), level="off", workers=0)
    assert caplog.messages == []


def test_evaluation_without_testing_cases_has_its_own_remedy(tmp_path, valid_case):
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": [valid_case], "testing": []}))
    with pytest.raises(InputError, match=r"no `testing` case.* data split .*--section validation"):
        preflight({"testing": []}, required=("testing",), source=str(path), level="off")


@pytest.mark.parametrize(
    ("now", "words"),
    [(("training", "validation"), "training and testing"), (("testing",), "training and testing"), (("training",), "and testing")],
)
def test_patients_of_sections_that_are_not_used_now_are_refused(tmp_path, valid_case, now, words):
    path = tmp_path / "datalist.json"
    sections = {s: [{**valid_case, "patient": p}] for s, p in (("training", "p1"), ("validation", "p2"), ("testing", "p1"))}
    path.write_text(json.dumps(sections))
    used = {name: sections[name] for name in now}
    with pytest.raises(InputError, match=f"patient p1 is in .*{words}"):
        preflight(used, required=now, source=str(path))
    preflight(used, required=now, source=str(path), level="off")
    sections["testing"] = [{**valid_case, "patient": "p3"}]
    path.write_text(json.dumps(sections))
    preflight({name: sections[name] for name in now}, required=now, source=str(path))


def test_an_unused_section_without_labels_does_no_harm(tmp_path, valid_case):
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": [valid_case], "testing": ["images/p9.nii.gz"]}))
    preflight({"training": [valid_case]}, source=str(path))


def test_labels_and_masks_of_vertebrae_are_checked(valid_case, tmp_path):
    vertebrae = np.zeros((6, 7, 8), np.uint8)
    good = {**valid_case, "vertebrae": save(tmp_path / "good.nii.gz", vertebrae)}
    preflight({"training": [good]}, needs=["vertebrae"])
    mirrored = {**valid_case, "vertebrae": save(tmp_path / "mirrored.nii.gz", vertebrae, np.diag([-2.0, 1.0, 1.0, 1.0]))}
    with pytest.raises(InputError, match=r"mirrored\.nii\.gz: lies up to .* mm off its image"):
        preflight({"training": [good, mirrored]})
    with pytest.raises(InputError, match=r"gone\.nii\.gz: does not exist"):
        preflight({"training": [{**valid_case, "vertebrae": str(tmp_path / "gone.nii.gz")}]})
    with pytest.raises(InputError, match=r"has no `label` \(1 of 1 validation cases\).*`data simulate`"):
        preflight({"training": [good], "validation": [{"image": good["image"]}]})
