# SPDX-License-Identifier: Apache-2.0
"""Files, folders and datalists are found; unreadable scans are named and removed."""

from __future__ import annotations

import json
import os

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.inference.inputs import check_inputs, find_inputs, same_output, shared_folder


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("b.nii.gz", "a.nii"):
        image = np.random.default_rng(0).normal(0, 100, size=(5, 6, 7)).astype(np.float32)  # HU of tissue
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / name)
    (folder / "notes.txt").write_text("no scan")
    return folder


def test_scans_of_a_folder_in_order(scans):
    assert [c["image"] for c in find_inputs(str(scans))] == [str(scans / "a.nii"), str(scans / "b.nii.gz")]


def test_datalist_in_the_folder_has_precedence(scans):
    (scans / "datalist.json").write_text(json.dumps({"training": [{"image": "a.nii"}], "testing": [{"image": "b.nii.gz"}]}))
    assert [c["image"] for c in find_inputs(str(scans))] == [str(scans / "b.nii.gz")]


def test_broken_scan_is_removed_and_named(scans, monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["pytest"])
    (scans / "c.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes()[:60])
    cases = find_inputs(str(scans))
    check_inputs(cases, str(scans))
    assert [c["image"] for c in cases] == [str(scans / "a.nii"), str(scans / "b.nii.gz")]
    assert "c.nii.gz" in caplog.text


def test_no_scan_is_one_line(scans, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest"])
    with pytest.raises(InputError, match="contains no scan"):
        check_inputs(find_inputs(str(scans / "notes.txt")), str(scans / "notes.txt"))


def test_scans_of_the_same_name_keep_their_folders():
    apart = [{"image": "data/p1/ct.nii.gz"}, {"image": "data/p2/ct.nii.gz"}]
    assert shared_folder(apart) == os.path.abspath("data")
    assert shared_folder([{"image": "data/p1/a.nii.gz"}, {"image": "data/p2/b.nii.gz"}]) == ""
    assert shared_folder([]) == ""


def test_scans_that_differ_in_their_ending_only(scans, monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["pytest"])
    (scans / "a.nii.gz").write_bytes((scans / "b.nii.gz").read_bytes())
    cases = find_inputs(str(scans))
    assert list(same_output(cases).values()) == [
        f"{scans / 'a.nii.gz'}: differs from a.nii only in its suffix; rename one, only that is segmented"
    ]
    check_inputs(cases, str(scans))
    assert [c["image"] for c in cases] == [str(scans / "a.nii"), str(scans / "b.nii.gz")]
    assert "only in its suffix" in caplog.text
