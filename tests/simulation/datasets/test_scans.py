# SPDX-License-Identifier: Apache-2.0
"""Real CTs with vertebra instances have the ignore index as fracture target."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.datalist import read_datalist
from scripts.simulation.datasets.scans import scans


def write_source(folder, patients=("a", "b"), empty=()):
    folder.mkdir()
    entries = []
    for patient in patients:
        vertebrae = np.zeros((6, 8, 10), np.uint8)
        if patient not in empty:
            vertebrae[2:4, 2:6, 1:4], vertebrae[2:4, 2:6, 5:9] = 26, 24
        for name, array in (("ct", np.full(vertebrae.shape, 40, np.int16)), ("vert", vertebrae)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{patient}_{name}.nii.gz")
        entries.append({"image": f"{patient}_ct.nii.gz", "vertebrae": f"{patient}_vert.nii.gz", "patient": patient})
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": entries[:1], "validation": entries[1:]}))
    return path


def test_vertebrae_are_ignored_and_the_sacrum_is_background(tmp_path):
    source = write_source(tmp_path / "source")
    sections = read_datalist(scans(str(source), str(tmp_path / "out")))[1]
    case = sections["training"][0]
    label = np.asarray(nib.load(case["label"]).dataobj)
    vertebrae = np.asarray(nib.load(case["vertebrae"]).dataobj)
    assert np.array_equal(label == 255, vertebrae == 24)
    assert set(np.unique(label)) == {0, 255}
    assert case["image"].endswith("source/a_ct.nii.gz")
    assert [c["patient"] for c in sections["validation"]] == ["b"]


def test_training_cases_are_repeated(tmp_path):
    source = write_source(tmp_path / "source")
    sections = read_datalist(scans(str(source), str(tmp_path / "out"), repeat=3))[1]
    assert [len(sections[s]) for s in ("training", "validation")] == [3, 1]


def test_several_datalists_are_joined(tmp_path):
    sources = [str(write_source(tmp_path / name, (name, "v"))) for name in ("one", "two")]
    sections = read_datalist(scans(sources, str(tmp_path / "out")))[1]
    assert [c["patient"] for c in sections["training"]] == ["one", "two"]
    assert len({c["label"] for s in sections.values() for c in s}) == 4


def test_a_case_without_vertebrae_is_skipped(tmp_path):
    source = write_source(tmp_path / "source", empty=("b",))
    with pytest.raises(InputError, match="1 of 2 scans were skipped"):
        scans(str(source), str(tmp_path / "out"))
    assert len(read_datalist(tmp_path / "out")[1]["training"]) == 1


def test_bad_arguments_are_one_line(tmp_path):
    source = write_source(tmp_path / "source")
    with pytest.raises(InputError, match="repeat=0"):
        scans(str(source), str(tmp_path / "out"), repeat=0)
    (tmp_path / "images").mkdir()
    only = tmp_path / "images" / "datalist.json"
    only.write_text(json.dumps({"training": [{"image": "a.nii.gz"}]}))
    with pytest.raises(InputError, match="no case has `image` and `vertebrae`"):
        scans(str(only), str(tmp_path / "out"))


def test_a_corrected_or_moved_mask_has_a_new_label(tmp_path):
    source = write_source(tmp_path / "source")
    first = read_datalist(scans(str(source), str(tmp_path / "out")))[1]["training"][0]
    before = (tmp_path / "out" / "labels").stat().st_mtime_ns
    mask = nib.load(first["vertebrae"])
    corrected = np.asarray(mask.dataobj).copy()
    corrected[0, 0, 5:9] = 23
    scans(str(source), str(tmp_path / "out"))
    assert (tmp_path / "out" / "labels").stat().st_mtime_ns == before  # finished labels stay
    nib.save(nib.Nifti1Image(corrected, mask.affine), first["vertebrae"])
    scans(str(source), str(tmp_path / "out"))
    label = np.asarray(nib.load(first["label"]).dataobj)
    assert np.array_equal(label == 255, np.isin(corrected, (23, 24)))
