# SPDX-License-Identifier: Apache-2.0
"""Files of an earlier run: none outlives its result, and files of other programs are neither replaced nor deleted."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.inference.case import Outputs
from scripts.inference.earlier_files import DICOM, MASKS, PICTURES, record_path, refuse_others, remove_earlier
from scripts.io.dicom_source import MANUFACTURER

ENDINGS = (*MASKS, *DICOM, *PICTURES)


def mask(path: Path, description: str) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["descrip"] = description.encode()
    nib.save(image, path)


def dicom(path: Path, manufacturer: str) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.Manufacturer = manufacturer
    dataset.save_as(path, implicit_vr=False, little_endian=True)


def files(base: Path) -> set[str]:
    return {e for e in ENDINGS if base.with_name(base.name + e).is_file()}


@pytest.fixture
def own(tmp_path) -> Path:
    """Files of this program beside those of another scan."""
    base = tmp_path / "ct"
    for name in ("ct", "ct2"):
        for ending in MASKS:
            mask(tmp_path / f"{name}{ending}", "1 = fractured vertebra; research use only")
        for ending in DICOM:
            dicom(tmp_path / f"{name}{ending}", MANUFACTURER)
        for ending in PICTURES:
            (tmp_path / f"{name}{ending}").write_text("x")
    return base


@pytest.mark.parametrize("recorded", [True, False])
def test_files_of_a_scan_are_removed_and_those_of_others_stay(own, recorded):
    if recorded:
        record_path(own).parent.mkdir()
        record_path(own).write_text("{}")
    refuse_others(own, ENDINGS)
    remove_earlier(own)
    assert not record_path(own).exists()
    assert files(own) == set()
    assert files(own.with_name("ct2")) == set(ENDINGS)


@pytest.mark.parametrize("ending", MASKS)
@pytest.mark.parametrize("recorded", [True, False])
def test_masks_of_other_programs_are_refused_and_stay(tmp_path, ending, recorded):
    base, path = tmp_path / "ct", tmp_path / f"ct{ending}"
    if recorded:  # of a run without masks
        record_path(base).parent.mkdir()
        record_path(base).write_text("{}")
    for write in (lambda: mask(path, "made by hand"), lambda: path.write_bytes(b"unreadable")):
        write()
        with pytest.raises(ValueError, match=rf"ct{ending}: exists and was not written by this program; rename it"):
            refuse_others(base, MASKS)
        refuse_others(base, [e for e in ENDINGS if e != ending])  # not an output of this run
        remove_earlier(base)
        assert path.is_file()


def test_a_given_mask_stays_and_is_no_output(own):
    given = str(own.with_name("ct_vertebrae.nii.gz"))
    with pytest.raises(ValueError, match=r"ct_vertebrae\.nii\.gz: is the given mask of vertebrae and an output of this scan"):
        refuse_others(own, MASKS, given)
    refuse_others(own, [], given)
    remove_earlier(own, given)
    assert files(own) == {"_vertebrae.nii.gz"}


def test_dicom_files_of_others_are_refused_if_some_are_written(tmp_path):
    base = tmp_path / "ct"
    dicom(tmp_path / "ct_seg.dcm", "a scanner")
    (tmp_path / "ct_overlay.png").write_text("x")
    with pytest.raises(ValueError, match=r"ct_seg\.dcm: exists and was not written"):
        refuse_others(base, DICOM)
    refuse_others(base, MASKS)
    remove_earlier(base)
    assert files(base) == {"_seg.dcm", "_overlay.png"}


@pytest.mark.parametrize("statistics_only", [True, False])
@pytest.mark.parametrize("by_vertebra", [True, False])
def test_endings_are_those_of_the_files_that_are_written(statistics_only, by_vertebra):
    written = set(Outputs(statistics_only=statistics_only).endings(by_vertebra, dicom=True))
    expected = {"_fracture.nii.gz", "_seg.dcm"} | ({"_vertebrae.nii.gz", "_sr.dcm"} if by_vertebra else set())
    assert written == (set() if statistics_only else expected)
    assert Outputs(statistics_only=True, save_probabilities=True).endings(by_vertebra, dicom=False) == ["_probability.nii.gz"]
