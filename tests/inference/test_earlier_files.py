# SPDX-License-Identifier: Apache-2.0
"""Files of an earlier run: none outlives its result, and files of other programs are neither replaced nor deleted."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
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
    refuse_others(own, dicom=True)
    remove_earlier(own)
    assert not record_path(own).exists()
    assert files(own) == set()
    assert files(own.with_name("ct2")) == set(ENDINGS)


@pytest.mark.parametrize("ending", MASKS)
def test_masks_of_other_programs_are_refused(tmp_path, ending):
    base = tmp_path / "ct"
    mask(tmp_path / f"ct{ending}", "made by hand")
    with pytest.raises(ValueError, match=rf"ct{ending}: exists and was not written by this program; rename it"):
        refuse_others(base, dicom=False)
    (tmp_path / f"ct{ending}").write_bytes(b"unreadable")
    with pytest.raises(ValueError, match="was not written by this program"):
        refuse_others(base, dicom=False)


def test_dicom_files_of_others_are_refused_where_some_are_written(tmp_path):
    base = tmp_path / "ct"
    dicom(tmp_path / "ct_seg.dcm", "a scanner")
    (tmp_path / "ct_overlay.png").write_text("x")
    with pytest.raises(ValueError, match=r"ct_seg\.dcm: exists and was not written"):
        refuse_others(base, dicom=True)
    refuse_others(base, dicom=False)  # a NIfTI scan has no DICOM output
    remove_earlier(base)
    assert files(base) == {"_seg.dcm", "_overlay.png"}
