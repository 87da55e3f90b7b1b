# SPDX-License-Identifier: Apache-2.0
"""Parts of a series in several folders are recognised; repeated UIDs, copies and other series are not."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_files import NORMAL, write_series
from scripts.inference.discovery import discover_folder
from scripts.io.split_series import parts_of_series

VOLUME = np.zeros((12, 6, 5), np.int16)
UID = {"SeriesInstanceUID": "1.2.3.77"}


def series(folder, name, first=0, number=6, beside=0.0, **changes):
    """Slices of one line from the given number on, shifted in plane by ``beside`` mm."""
    write_series(folder / name, VOLUME[:number], **{**UID, **changes})
    import pydicom

    for file in (folder / name).iterdir():
        data = pydicom.dcmread(file)
        shift = NORMAL * 2.0 * first + np.asarray(data.ImageOrientationPatient[:3], float) * beside
        data.ImagePositionPatient = [f"{v:.4f}" for v in np.asarray(data.ImagePositionPatient, float) + shift]
        data.save_as(file)
    return str(folder / name)


def test_parts_of_one_series_name_each_other(tmp_path):
    a, b, c = (series(tmp_path, name, first=6 * k) for k, name in enumerate("abc"))
    assert parts_of_series([a, b, c]) == {a: [b], b: [a, c], c: [b]}


@pytest.mark.parametrize(
    "other",
    [
        {"first": 0},  # a copy
        {"first": 3},  # overlapping
        {"first": 40},  # far away
        {"first": 6, "beside": 25.0},
        {"first": 6, "SeriesInstanceUID": "1.2.3.78"},
        {"first": 6, "ImageOrientationPatient": ["0", "1", "0", "0", "0", "-1"]},
    ],
    ids=str,
)
def test_other_folders_are_scans_of_their_own(tmp_path, other):
    assert parts_of_series([series(tmp_path, "a"), series(tmp_path, "b", **other)]) == {}


def test_damaged_folders_are_left_to_their_reader(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    (tmp_path / "a" / "000.dcm").write_bytes((tmp_path / "a" / "000.dcm").read_bytes()[:150])
    assert parts_of_series([a, b, str(tmp_path / "nowhere")]) == {}


def test_a_cohort_names_the_parts(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    whole = series(tmp_path, "whole", SeriesInstanceUID="1.2.3.99")
    problems = {c["image"]: c.get("problem") for c in discover_folder(tmp_path)}
    assert problems == {
        a: f"is a part of a series whose next slices are in {b}; put them into one folder",
        b: f"is a part of a series whose next slices are in {a}; put them into one folder",
        whole: None,
    }
