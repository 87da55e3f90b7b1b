# SPDX-License-Identifier: Apache-2.0
"""Given masks of vertebrae: pairs by name, folders of TotalSegmentator, grids."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.inference.given_vertebrae import pair_vertebrae, read_given_vertebrae
from scripts.io.scan_header import read_header

AFFINE = np.diag([-4.0, 4.0, 5.0, 1.0])


def save(path, data) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return str(path)


def labels() -> np.ndarray:
    data = np.zeros((10, 11, 12), np.uint8)
    data[2:5, 2:6, 1:5], data[2:5, 2:6, 6:10] = 21, 20
    return data


def total(folder) -> str:
    for value, level in ((21, "L2"), (20, "L1"), (19, "T12")):
        save(folder / "segmentations" / f"vertebrae_{level}.nii.gz", (labels() == value).astype(np.uint8))
    return str(folder / "segmentations")


def test_masks_are_paired_as_data_and_evaluation_pair_them(tmp_path):
    scans = [str(tmp_path / n) for n in ("a_ct.nii.gz", "b_0000.nii.gz", "s1/ct.nii.gz", "gone.nii.gz")]
    expected = {
        scans[0]: save(tmp_path / "masks" / "x" / "a_seg-vert_msk.nii.gz", labels()),
        scans[1]: save(tmp_path / "masks" / "x" / "b_vertebrae.nii.gz", labels()),
        scans[2]: total(tmp_path / "masks" / "s1"),
    }
    masks, reasons = pair_vertebrae(scans, str(tmp_path / "masks"))
    assert masks == expected
    assert "has no mask of vertebrae called gone" in reasons[scans[3]]
    for source in (expected[scans[2]], str(tmp_path / "masks" / "s1"), expected[scans[0]]):
        single, reasons = pair_vertebrae([scans[3]], source)
        assert single[scans[3]] == (source if source.endswith(("gz", "segmentations")) else expected[scans[2]])
        assert not reasons


def test_sources_that_cannot_be_paired_are_one_line(tmp_path):
    mask = save(tmp_path / "m.nii.gz", labels())
    with pytest.raises(InputError, match="no such mask or folder"):
        pair_vertebrae(["a.nii"], str(tmp_path / "gone"))
    with pytest.raises(InputError, match="is the mask of one scan, and there are 2"):
        pair_vertebrae(["a.nii", "b.nii"], mask)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no vertebra mask"):
        pair_vertebrae(["a.nii"], str(tmp_path / "empty"))


def test_a_folder_of_totalsegmentator_is_read_as_its_labels(tmp_path):
    header = read_header(save(tmp_path / "ct.nii.gz", np.zeros((10, 11, 12), np.int16)), require_volume=False)
    one = read_given_vertebrae(save(tmp_path / "m.nii.gz", labels()), header)
    many = read_given_vertebrae(total(tmp_path / "s"), header)
    for scan in (one, many):
        np.testing.assert_array_equal(scan.slab(0, 12), labels().transpose(2, 1, 0))
        assert scan.range == (0, 21)
        scan.close()
    assert read_given_vertebrae(None, header) is None
    other = read_header(save(tmp_path / "other.nii.gz", np.zeros((10, 11, 13), np.int16)), require_volume=False)
    with pytest.raises(ValueError, match="has a different grid"):
        read_given_vertebrae(total(tmp_path / "s"), other)
