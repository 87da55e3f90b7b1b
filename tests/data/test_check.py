# SPDX-License-Identifier: Apache-2.0
"""The check of a whole datalist: findings of values and geometry, leaks, copies, table, JSON, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.checks.report import check, format_issues
from scripts.io.image_checks import Issue, geometry_issues, inspect_case, label_issues, value_issues

AFFINE = np.diag([10.0, 10.0, 10.0, 1.0])


@pytest.fixture
def datalist(tmp_path):
    """Three good cases of three patients, one in each section."""
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


def test_a_good_set_passes_and_its_facts_are_written(datalist):
    content = json.loads(Path(check(str(datalist))).read_text())
    assert (content["cases"], content["errors"], content["warnings"]) == (3, 0, 0)
    assert content["facts"][0]["spacing_mm"] == [10, 10, 10]
    assert content["facts"][0]["fracture_ml"] == 8.0
    assert content["facts"][0]["orientation"] == "RAS"


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (-1000, 1500, None),
        (-150, 1300, None),
        (0, 255, "8-bit"),
        (0, 1, "rescaled"),
        (-1, 1, "rescaled"),
        (0, 3000, "offset"),
        (-1000, 100, "no-bone"),
    ],
)
def test_ranges_that_are_no_ct_are_told_apart(low, high, code):
    found = value_issues("ct.nii", np.linspace(low, high, 50), expect_hu=True)
    assert [f.code for f in found] == ([code] if code else [])
    assert value_issues("ct.nii", np.linspace(low, high, 50), expect_hu=False) == []


def test_geometry_that_is_no_straight_grid_is_named():
    data = np.zeros((20, 20, 20), np.int16)
    sheared = np.diag([3.0, 3.0, 3.0, 1.0])
    sheared[1, 2] = 0.3
    singular = np.diag([3.0, 0.0, 3.0, 1.0])
    small = np.diag([1.0, 3.0, 3.0, 1.0])
    for affine, code in ((sheared, "sheared"), (singular, "affine"), (small, "small-field")):
        image = nib.Nifti1Image(data, np.eye(4))
        image._affine = affine  # nibabel's headers cannot hold all of these
        assert code in [f.code for f in geometry_issues("x.mha", image)]
    image = nib.Nifti1Image(data, AFFINE)
    image.set_qform(np.diag([10.0, 10.0, -10.0, 1.0]), code=1)
    assert [f.code for f in geometry_issues("x.nii", image)] == ["two-affines"]
    image = nib.Nifti1Image(data, AFFINE)
    image.set_sform(None)
    image.set_qform(None)
    assert "no-orientation" in [f.code for f in geometry_issues("x.nii", image)]


def test_an_oblique_grid_is_fine():
    turn = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]) * 3
    assert geometry_issues("x.nii", nib.Nifti1Image(np.zeros((20, 20, 20), np.int16), affine)) == []


def test_labels_of_healthy_scans_warn_and_fractions_fail():
    assert [f.severity for f in label_issues("m", np.zeros(5), (0, 1))] == ["warning"]
    assert [f.code for f in label_issues("m", np.array([0, 0.5, 1]), (0, 1))] == ["label-values"]
    assert [f.code for f in label_issues("m", np.array([0, np.nan]), (0, 1))] == ["nan"]


def test_a_leak_and_a_copy_across_sections_fail_and_a_copy_within_warns(datalist, capsys):
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


def test_a_broken_case_does_not_hide_the_others(datalist, capsys):
    (datalist.parent / "c0.nii.gz").write_bytes((datalist.parent / "c0.nii.gz").read_bytes()[:100])
    nib.save(nib.Nifti1Image(np.full((6, 7, 8), 3, np.uint8), AFFINE), datalist.parent / "m1.nii.gz")
    with pytest.raises(InputError, match=r"2 error\(s\)"):
        check(str(datalist))
    text = capsys.readouterr().out
    assert "c0.nii.gz: cannot be read" in text
    assert "m1.nii.gz: holds the values 3" in text
    assert "3 cases, 2 error(s)" in text


def test_a_folder_with_a_broken_dicom_series_says_what_is_wrong(tmp_path):
    pytest.importorskip("pydicom")
    from dicom_files import write_series

    volume = np.random.default_rng(0).integers(-1000, 1500, (6, 5, 4)).astype(np.int16)
    files = write_series(tmp_path / "s", volume)
    assert [f for f in inspect_case({"image": str(tmp_path / "s")})[0] if f.severity == "error"] == []
    files[2].unlink()
    (finding,) = inspect_case({"image": str(tmp_path / "s")})[0]
    assert "missing" in finding.line
    assert finding.line.count(str(tmp_path / "s")) == 1


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
