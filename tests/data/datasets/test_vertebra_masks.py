# SPDX-License-Identifier: Apache-2.0
"""TotalSegmentator: merged masks; CTSpine1K: pairs of scan and mask."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from scripts.core.errors import InputError
from scripts.data.datasets.vertebra_masks import ctspine1k, merge_vertebrae, totalsegmentator

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
EXAMPLE = SHARED / "data" / "totalsegmentator" / "s_example"


def save(path, array, affine=AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def case(folder, name: str) -> None:
    ct = np.full((6, 6, 12), 40, np.int16)
    save(folder / name / "ct.nii.gz", ct)
    for k, level in enumerate(("L2", "L1", "T12")):
        mask = np.zeros(ct.shape, np.uint8)
        mask[2:4, 2:4, 3 * k : 3 * k + 3] = 1
        save(folder / name / "segmentations" / f"vertebrae_{level}.nii.gz", mask)
    save(folder / name / "segmentations" / "vertebrae_L3.nii.gz", np.zeros(ct.shape, np.uint8))
    save(folder / name / "segmentations" / "liver.nii.gz", np.ones(ct.shape, np.uint8))


def cases_in(path) -> list[dict]:
    content = json.loads(Path(path).read_text())
    return [c for s in ("training", "validation", "testing") for c in content[s]]


def test_masks_per_vertebra_are_merged(tmp_path):
    case(tmp_path / "set", "s0001")
    case(tmp_path / "set", "s0002")
    path = totalsegmentator(str(tmp_path / "set"), str(tmp_path / "out"))
    cases = cases_in(path)
    assert sorted(c["patient"] for c in cases) == ["s0001", "s0002"]
    assert all(set(c) == {"image", "vertebrae", "patient"} for c in cases)
    labels = np.asarray(nib.load(tmp_path / "out" / "vertebrae" / "s0001.nii.gz").dataobj)
    assert [int(labels[2, 2, z]) for z in (0, 4, 8)] == [21, 20, 19]
    assert np.unique(labels).tolist() == [0, 19, 20, 21]
    rows = list(csv.DictReader((tmp_path / "out" / "vertebrae.csv").open()))
    assert {r["grade"] for r in rows} == {""}
    assert {r["fractured"] for r in rows} == {""}


def test_a_case_without_vertebrae_is_left_out(tmp_path, capsys):
    case(tmp_path / "set", "s0001")
    save(tmp_path / "set" / "s0002" / "ct.nii.gz", np.zeros((4, 4, 4), np.int16))
    with pytest.raises(InputError, match="1 of 2 cases"):
        totalsegmentator(str(tmp_path / "set"), str(tmp_path / "out"))
    assert "segment the vertebrae first" in capsys.readouterr().out
    assert [c["patient"] for c in cases_in(tmp_path / "out" / "datalist.json")] == ["s0001"]


def test_masks_on_a_different_grid_are_refused(tmp_path):
    case(tmp_path, "s")
    save(tmp_path / "s" / "segmentations" / "vertebrae_T11.nii.gz", np.zeros((6, 6, 11), np.uint8))
    with pytest.raises(ValueError, match="a different grid"):
        merge_vertebrae(tmp_path / "s" / "segmentations")


def test_ctspine1k_pairs_files_by_stem(tmp_path, capsys):
    for name in ("a.nii.gz", "b.nii.gz", "only.nii.gz"):
        save(tmp_path / "set" / "deep" / name, np.zeros((4, 4, 8), np.int16))
    for name in ("a_seg.nii.gz", "b_seg.nii.gz"):
        labels = np.zeros((4, 4, 8), np.float64)
        labels[1:3, 1:3, 2:6] = 22
        save(tmp_path / "set" / "masks" / name, labels)
    cases = cases_in(ctspine1k(str(tmp_path / "set"), str(tmp_path / "out")))
    assert sorted(c["patient"] for c in cases) == ["a", "b"]
    assert "only.nii.gz: has no matching CT or mask" in capsys.readouterr().out
    labels = nib.load(tmp_path / "out" / "vertebrae" / "a.nii.gz")
    assert labels.get_data_dtype() == np.uint8
    assert np.unique(np.asarray(labels.dataobj)).tolist() == [0, 22]


@pytest.mark.parametrize("command", [totalsegmentator, ctspine1k])
def test_folders_without_data_are_one_line(tmp_path, command):
    with pytest.raises(InputError, match="no such folder"):
        command(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no"):
        command(str(tmp_path / "empty"), str(tmp_path / "out"))


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason=f"the example is not at {EXAMPLE}")
def test_the_published_example_has_t11_to_s1(tmp_path):
    cases = cases_in(totalsegmentator(str(EXAMPLE), str(tmp_path)))
    assert len(cases) == 1
    labels = np.asarray(nib.load(tmp_path / cases[0]["vertebrae"]).dataobj)
    assert set(range(18, 25)) | {26} <= set(np.unique(labels).tolist())
