# SPDX-License-Identifier: Apache-2.0
"""The check of a whole datalist: patients in two sections, repeated images, table, JSON, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.checks.report import check, format_issues
from scripts.io.image_checks import Issue

AFFINE = np.diag([10.0, 10.0, 10.0, 1.0])


@pytest.fixture
def datalist(tmp_path):
    """Three valid cases of three patients, one in each section."""
    content: dict = {}
    for k, section in enumerate(("training", "validation", "testing")):
        rng = np.random.default_rng(k)
        data = rng.normal(0, 400, (6, 7, 8)).clip(-1000, 1500).astype(np.int16)
        mask = np.zeros(data.shape, np.uint8)
        mask[2:4, 2:4, 2:4] = 1
        nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / f"c{k}.nii.gz")
        nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / f"m{k}.nii.gz")
        content[section] = [{"image": f"c{k}.nii.gz", "label": f"m{k}.nii.gz", "patient": f"p{k}"}]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path / "datalist.json"


def test_a_valid_set_passes_and_its_facts_are_written(datalist):
    content = json.loads(Path(check(str(datalist))).read_text())
    assert (content["cases"], content["errors"], content["warnings"]) == (3, 0, 0)
    assert content["facts"][0]["spacing_mm"] == [10, 10, 10]
    assert content["facts"][0]["fracture_ml"] == 8.0
    assert content["facts"][0]["orientation"] == "RAS"


def test_patient_leakage_and_repeated_images_are_reported(datalist, capsys):
    content = json.loads(datalist.read_text())
    content["testing"][0]["patient"] = "p0"
    content["validation"][0] |= {"image": "c0.nii.gz", "label": "m0.nii.gz"}
    content["testing"].append({"image": "c2.nii.gz", "label": "m2.nii.gz", "patient": "p9"})
    datalist.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"2 error\(s\)"):
        check(str(datalist), out=str(datalist.parent / "r.json"))
    text = capsys.readouterr().out
    assert "patient p0 is in training and testing" in text
    assert "is in training and this in validation" in text
    report = json.loads((datalist.parent / "r.json").read_text())
    assert [(f["severity"], f["code"]) for f in report["issues"]] == [
        ("error", "leak"),
        ("error", "duplicate"),
        ("warning", "duplicate"),
    ]


def test_errors_of_all_cases_are_reported(datalist, capsys):
    (datalist.parent / "c0.nii.gz").write_bytes((datalist.parent / "c0.nii.gz").read_bytes()[:100])
    nib.save(nib.Nifti1Image(np.full((6, 7, 8), 3, np.uint8), AFFINE), datalist.parent / "m1.nii.gz")
    with pytest.raises(InputError, match=r"2 error\(s\)"):
        check(str(datalist))
    text = capsys.readouterr().out
    assert "c0.nii.gz: cannot be read" in text
    assert "m1.nii.gz: contains the values 3" in text
    assert "3 cases, 2 error(s)" in text


def test_errors_come_first_in_the_table():
    lines = format_issues([Issue("warning", "a", "x", "m"), Issue("error", "bb", "y", "n")]).splitlines()
    assert lines[0].split() == ["error", "bb", "y:", "n"]


def test_bad_arguments_are_one_line(datalist, tmp_path):
    for arguments, words in [
        ({"datalist": str(tmp_path / "no.json")}, "does not exist"),
        ({"datalist": str(datalist), "level": "some"}, "full or header"),
    ]:
        with pytest.raises(InputError, match=words):
            check(**arguments)
    for text, words in [
        ("{}", "has no case"),
        ('{"training": [', "is not valid JSON"),
        ('{"training": [], "validation": "none"}', "`validation` must be a list"),
    ]:
        datalist.write_text(text)
        with pytest.raises(InputError, match=words) as refused:
            check(str(datalist.parent))
        assert "\n" not in str(refused.value)
