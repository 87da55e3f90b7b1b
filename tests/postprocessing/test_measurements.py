# SPDX-License-Identifier: Apache-2.0
"""Levels of findings: both of a finding over two vertebrae, in anatomical order, and none outside every given vertebra."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scripts.core.vertebrae import LABELS
from scripts.postprocessing.measurements import FINDING_COLUMNS, OUTSIDE, FindingMeasurements

VERSE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "verse19"


def rows(numbers: np.ndarray, vertebrae: np.ndarray | None, affine: np.ndarray | None = None) -> list[dict]:
    """Rows of findings (I, J, K) of a scan, added slice by slice as inference does."""
    measurements = FindingMeasurements(SimpleNamespace(affine=np.eye(4) if affine is None else affine))
    for k in range(numbers.shape[2]):
        plane = numbers[:, :, k].T
        if plane.any():
            levels = None if vertebrae is None else vertebrae[:, :, k].T
            box = (slice(0, plane.shape[0]), slice(0, plane.shape[1]))
            ones = np.ones(plane.shape, np.float32)
            measurements.add(k, box, plane > 0, ones, plane, ones.astype(np.int16), levels)
    return measurements.rows("case")


@pytest.fixture
def vertebrae() -> np.ndarray:
    labels = np.zeros((10, 10, 40), np.uint8)
    for n, level in enumerate(("L2", "L1", "T13", "T12")):  # from feet to head
        labels[2:8, 2:8, 10 * n : 10 * n + 8] = LABELS[level]
    return labels


@pytest.mark.parametrize(
    ("slices", "levels", "level"),
    [
        ((2, 6), "L2", "L2"),
        ((0, 18), "L1, L2", "L1"),
        ((12, 38), "T12, T13, L1", "T12"),
        ((0, 11), "L2", "L2"),  # a tenth of L1 is no second level
        ((8, 10), OUTSIDE, ""),
    ],
)
def test_levels_of_a_finding(vertebrae, slices, levels, level):
    numbers = np.zeros(vertebrae.shape, np.int32)
    numbers[2:8, 2:8, slice(*slices)] = 1
    (row,) = rows(numbers, vertebrae)
    assert row["levels"] == levels
    assert (row["level"] in levels.split(", ")) or (row["level"], levels) == ("", OUTSIDE)
    assert bool(row["level"]) == bool(level)
    assert set(row) == set(FINDING_COLUMNS)


def test_without_vertebrae_levels_are_empty(vertebrae):
    numbers = (vertebrae > 0).astype(np.int32)
    (row,) = rows(numbers, None)
    assert (row["level"], row["level_share"], row["levels"]) == ("", "", "")


def test_share_is_that_of_the_level_with_most_voxels(vertebrae):
    numbers = np.zeros(vertebrae.shape, np.int32)
    numbers[2:8, 2:8, 4:13] = 3
    (row,) = rows(numbers, vertebrae)
    assert (row["finding"], row["level"], row["levels"]) == (3, "L2", "L1, L2")
    assert row["level_share"] == pytest.approx(4 / 9, abs=1e-3)


@pytest.mark.skipif(not VERSE.is_dir(), reason="needs scans of VerSe 2019, which are no part of the repository")
def test_both_fractures_of_a_patient_and_a_finding_outside():
    (file,) = VERSE.rglob("*007*seg-vert_msk.nii.gz")
    image = nib.load(file)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    numbers = np.isin(labels, [LABELS["T12"], LABELS["L1"]]).astype(np.int32)
    empty = np.argwhere(labels == 0)[0]
    numbers[tuple(empty)] = 2
    one, other = rows(numbers, labels, image.affine)
    assert one["levels"] == "T12, L1"
    assert (other["levels"], other["level"]) == (OUTSIDE, "")
