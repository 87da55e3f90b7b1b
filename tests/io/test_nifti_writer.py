# SPDX-License-Identifier: Apache-2.0
"""Slices written one by one equal the volume written at once, on the grid of the scan."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from fakes import affine_of, save
from scripts.io.nifti_writer import open_slice_writer
from scripts.io.scan_header import ScanHeader, read_header

SHAPE = (14, 13, 15)


@pytest.fixture
def header(tmp_path) -> ScanHeader:
    affine = affine_of(SHAPE, (3.0, 2.5, 2.0))
    return read_header(save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine))


def write(path, header, indices) -> None:
    with open_slice_writer(path, header) as writer:
        for k in indices:
            writer.write(k, np.ones(SHAPE[1::-1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("indices", [range(SHAPE[2]), [0, 14], [3, 4, 9], []])
def test_slices_are_in_place_and_skipped_ones_are_zero(tmp_path, header, dtype, indices):
    rng = np.random.default_rng(0)
    expected = np.zeros(SHAPE, dtype)
    with open_slice_writer(tmp_path / "m.nii.gz", header, dtype, "description") as writer:
        for k in indices:
            expected[:, :, k] = rng.integers(0, 9, SHAPE[:2])
            writer.write(k, expected[:, :, k].T)
        assert not (tmp_path / "m.nii.gz").exists()
    image = nib.load(tmp_path / "m.nii.gz")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), expected)
    np.testing.assert_allclose(image.affine, header.affine, atol=1e-5)
    assert image.header["descrip"].item().decode() == "description"


def test_equal_content_is_an_equal_file(tmp_path, header):
    for name in ("a.nii.gz", "b.nii.gz"):
        write(tmp_path / name, header, [2])
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(("first", "second"), [(4, 4), (4, 3), (14, 0)])
def test_other_orders_are_refused_and_leave_no_file(tmp_path, header, first, second):
    with pytest.raises(ValueError, match=f"slice {second} follows slice {first}; slices must be written in increasing"):
        write(tmp_path / "m.nii.gz", header, [first, second])
    assert [p.name for p in tmp_path.iterdir()] == ["ct.nii.gz"]


def test_names_of_labels_are_an_extension_of_the_header(tmp_path, header):
    with open_slice_writer(tmp_path / "m.nii.gz", header, names={1: "fracture <1>"}):
        pass
    image = nib.load(tmp_path / "m.nii.gz")
    (extension,) = image.header.extensions
    assert b'<Label Key="1"' in bytes(extension.get_content())
    assert b"fracture &lt;1&gt;" in bytes(extension.get_content())
    assert image.header.get_intent()[0] == "label"
    assert not np.asanyarray(image.dataobj).any()


def test_codes_of_the_affines_are_those_of_the_scan(tmp_path):
    affine = affine_of(SHAPE, (3.0, 2.5, 2.0))
    scan = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    scan.set_sform(affine, 4)
    scan.set_qform(affine, 2)
    nib.save(scan, tmp_path / "ct.nii.gz")
    with open_slice_writer(tmp_path / "m.nii.gz", read_header(tmp_path / "ct.nii.gz")):
        pass
    header = nib.load(tmp_path / "m.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 2)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("mm", 1.0), ("micron", 1e3)])
def test_masks_of_scans_in_other_units_are_read_back(tmp_path, unit, factor):
    """A scan with an sform alone, in metres: voxel sizes and sform of its mask have the same unit."""
    affine = np.diag([2.0 * factor, 2.0 * factor, 3.0 * factor, 1.0])
    scan = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    scan.set_qform(None, 0)
    scan.set_sform(affine, 1)
    scan.header.set_xyzt_units(unit)
    scan.header.set_zooms(np.diag(affine)[:3])
    nib.save(scan, tmp_path / "ct.nii.gz")
    header = read_header(tmp_path / "ct.nii.gz")
    with open_slice_writer(tmp_path / "m.nii.gz", header):
        pass
    mask = read_header(tmp_path / "m.nii.gz", require_volume=False)
    np.testing.assert_allclose(mask.affine, header.affine, rtol=1e-5)
    np.testing.assert_allclose(np.diag(mask.affine)[:3], (2, 2, 3), rtol=1e-5)
