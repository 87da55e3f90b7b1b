# SPDX-License-Identifier: Apache-2.0
"""RSNA 2022: sagittal masks on the grid of axial DICOM; fractured levels as training label."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.datasets.rsna import read_train_table, rsna, to_grid

pytest.importorskip("pydicom")
from dicom_files import write_series


def write_set(folder, studies: dict[str, str]) -> None:
    """Studies with C1, C2, C3 and T1 as slabs; the value holds C1 to C7 as digits."""
    rng = np.random.default_rng(0)
    (folder / "segmentations").mkdir(parents=True)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["StudyInstanceUID", "patient_overall", *(f"C{i}" for i in range(1, 8))])
        for uid, digits in studies.items():
            writer.writerow([uid, int("1" in digits), *digits])
    for uid in studies:
        volume = rng.integers(-100, 300, (12, 8, 10)).astype(np.int16)  # slice, row, column
        labels = np.zeros((10, 8, 12), np.uint8)  # column, row, slice
        for k, label in enumerate((8, 3, 2, 1)):
            labels[3:7, 2:6, 3 * k : 3 * k + 3] = label
        order = list(range(11, -1, -1))  # names run from head to feet
        write_series(folder / "train_images" / uid, volume, order=order)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.diag([0.6, 0.8, 2.0, 1.0])
        affine[:3, 3] = [30.0, 20.0, 100.0]
        axial = nib.Nifti1Image(labels, affine)
        sagittal = axial.as_reoriented(np.array([[2, -1], [1, -1], [0, 1]]))
        nib.save(sagittal, folder / "segmentations" / f"{uid}.nii")


def test_levels_become_labels_on_the_grid_of_the_ct(tmp_path):
    write_set(tmp_path / "set", {"1.2.1": "0100000", "1.2.2": "0000000", "1.2.3": "1010000"})
    path = rsna(str(tmp_path / "set"), str(tmp_path / "out"))
    content = json.loads(Path(path).read_text())
    cases = {c["patient"]: c for s in ("training", "validation", "testing") for c in content[s]}
    assert set(cases) == {"1.2.1", "1.2.2", "1.2.3"}
    for uid, fractured in (("1.2.1", {2}), ("1.2.2", set()), ("1.2.3", {1, 3})):
        image, mask, labels = (nib.load(tmp_path / "out" / cases[uid][k]) for k in ("image", "label", "vertebrae"))
        np.testing.assert_allclose(image.affine, mask.affine)
        values, vertebrae = np.asarray(mask.dataobj), np.asarray(labels.dataobj)
        assert {v: np.unique(values[vertebrae == v]).tolist() for v in (0, 1, 2, 3, 8)} == {
            0: [0],
            8: [255],
            **{v: [int(v in fractured)] for v in (1, 2, 3)},
        }
        # C1 lies above T1 in space, whatever the order of files and axes.
        heights = {v: (mask.affine @ [*np.argwhere(vertebrae == v).mean(0), 1])[2] for v in (1, 8)}
        assert heights[1] > heights[8] + 15
    rows = {(r["case"], r["level"]): r["fractured"] for r in csv.DictReader((tmp_path / "out" / "vertebrae.csv").open())}
    assert rows["1.2.1", "C2"] == "1"
    assert rows["1.2.1", "C1"] == "0"
    assert rows["1.2.1", "T1"] == ""


def test_a_study_with_a_missing_slice_is_left_out(tmp_path, capsys):
    write_set(tmp_path / "set", {"1.2.1": "0100000", "1.2.2": "0000000"})
    (tmp_path / "set" / "train_images" / "1.2.1" / "005.dcm").unlink()
    with pytest.raises(InputError, match="1 of 2 cases"):
        rsna(str(tmp_path / "set"), str(tmp_path / "out"))
    assert "1 slice(s) are missing" in capsys.readouterr().out


def test_masks_of_another_patient_are_refused():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    ct = nib.Nifti1Image(np.zeros((10, 10, 10), np.int16), affine)
    far = affine.copy()
    far[2, 3] = 500.0
    with pytest.raises(ValueError, match="are inside the CT"):
        to_grid(nib.Nifti1Image(np.ones((9, 10, 10), np.uint8), far), ct)


def test_invalid_tables_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        rsna(str(tmp_path), str(tmp_path / "out"))
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="lacks StudyInstanceUID"):
        read_train_table(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text("StudyInstanceUID,C1,C2,C3,C4,C5,C6,C7\n1,0,0,2,0,0,0,0\n")
    with pytest.raises(InputError, match="row 2 has C3='2'"):
        read_train_table(tmp_path / "train.csv")
