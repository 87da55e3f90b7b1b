# SPDX-License-Identifier: Apache-2.0
"""Intact scans are read as HU on their own grid; damaged ones are refused by one line with the file."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fakes import affine_of, ball_scan, save
from monai.transforms import SaveImage
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header

SHAPE = (20, 24, 28)


def refusal(path: Path, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        Scan(read_header(path), **kwargs).close()
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture
def volume():
    affine = affine_of(SHAPE, (2.0, 2.0, 2.0))
    return ball_scan(SHAPE, affine, [(0, 0, 0)], radius=12) - 100, affine


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_formats_have_equal_voxels_and_affines(tmp_path, volume, ending, dtype):
    data, affine = volume
    if ending.startswith(".nii"):
        path = save(tmp_path / f"ct{ending}", data.astype(dtype), affine)
    else:
        from monai.data import MetaTensor

        writer = SaveImage(tmp_path, "", ending, output_dtype=dtype, writer="ITKWriter", separate_folder=False, print_log=False)
        writer(MetaTensor(data[None].astype(np.float32), affine=affine, meta={"filename_or_obj": "ct"}))
        path = next(tmp_path.glob(f"*{ending}"))
    header = read_header(path)
    assert header.shape == SHAPE
    np.testing.assert_allclose(header.affine, affine, atol=1e-4)
    (tmp_path / "spool").mkdir()
    for spool in (None, tmp_path / "spool"):
        scan = Scan(header, spool)
        np.testing.assert_array_equal(scan.slab(0, SHAPE[2]).transpose(2, 1, 0), data)
        np.testing.assert_array_equal(scan.slab(5, 7).transpose(2, 1, 0), data[:, :, 5:7])
        assert not list((tmp_path / "spool").iterdir())  # a kill leaves nothing of the patient
        scan.close()


def test_stored_scaling_is_applied(tmp_path, volume):
    data, affine = volume
    image = nib.Nifti1Image((data + 1024).astype(np.uint16), affine)
    image.header.set_slope_inter(1, -1024)
    image.header.set_data_dtype(np.uint16)
    raw = nib.Nifti1Image.from_bytes(image.to_bytes())
    raw.to_filename(tmp_path / "ct.nii.gz")
    scan = Scan(read_header(tmp_path / "ct.nii.gz"))
    expected = np.asarray(nib.load(tmp_path / "ct.nii.gz").dataobj)
    np.testing.assert_allclose(scan.slab(0, SHAPE[2]).transpose(2, 1, 0), expected, atol=0.5)


@pytest.mark.parametrize("dtype", [">i2", ">f4", "<u2", "<i4", "<f8", "<i8"])
def test_any_stored_type_and_byte_order_has_the_same_hu(tmp_path, volume, dtype):
    data, affine = volume
    values = np.abs(data) - (0 if "u" in dtype else 200)
    header = nib.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(np.dtype(dtype))
    image = nib.Nifti1Image(values.astype(np.dtype(dtype)), affine, header)
    path = tmp_path / "ct.nii.gz"
    nib.save(image, path)
    assert nib.load(path).header.endianness == dtype[0]
    scan = Scan(read_header(path), expect_hu=values.min() < 0)
    np.testing.assert_array_equal(scan.slab(0, SHAPE[2]).transpose(2, 1, 0), values)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: np.where(d > 300, np.nan, d).astype(np.float32), "NaN"),
        (lambda d: np.zeros_like(d), "every voxel is 0"),
        (lambda d: np.full_like(d, -1024), "every voxel is -1024"),
        (lambda d: np.clip(d, 0, 255).astype(np.uint8), "8-bit"),
        (lambda d: (np.clip(d, -200, 1000) / 1000).astype(np.float32), "normalised"),
        (lambda d: (d + 1024).astype(np.int16), "too few lie between -200 and 300 HU"),
        (lambda d: np.stack([d, d], -1), r"three dimensions"),
        (lambda d: d[:, :, 0], r"three dimensions"),
        (lambda d: d[:, :, :1], "single slice"),
        (lambda d: d[:, :, 12:18], "scout"),
    ],
)
def test_implausible_voxels_are_refused(tmp_path, volume, change, word):
    data, affine = volume
    assert word in refusal(save(tmp_path / "ct.nii.gz", change(data), affine))


def test_colours_are_refused(tmp_path, volume):
    _, affine = volume
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, affine), tmp_path / "ct.nii.gz")
    assert "colour (RGB)" in refusal(tmp_path / "ct.nii.gz")


def test_other_values_than_hu_are_accepted_on_request(tmp_path, volume):
    data, affine = volume
    path = save(tmp_path / "ct.nii.gz", np.clip(data, 0, 255).astype(np.uint8), affine)
    assert Scan(read_header(path), expect_hu=False).range == (0, 255)


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.05])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_truncated_file_is_refused(tmp_path, volume, ending, keep):
    data, affine = volume
    rng = np.random.default_rng(0)
    noisy = (data + rng.integers(-20, 20, data.shape)).astype(np.int16)
    if ending.startswith(".nii"):
        path = save(tmp_path / f"ct{ending}", noisy, affine)
    else:
        from monai.data import MetaTensor

        writer = SaveImage(tmp_path, "", ending, output_dtype=np.int16, writer="ITKWriter", separate_folder=False, print_log=False)
        writer(MetaTensor(noisy[None].astype(np.float32), affine=affine, meta={"filename_or_obj": "ct"}))
        path = next(tmp_path.glob(f"*{ending}"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refusal(path)


def test_a_header_with_more_slices_than_the_file_is_refused(tmp_path, volume):
    data, affine = volume
    path = save(tmp_path / "ct.nii", data, affine)
    content = bytearray(path.read_bytes())
    content[46:48] = (60).to_bytes(2, "little")  # dim[3]
    path.write_bytes(bytes(content))
    assert "too few for the 20 x 24 x 60 voxels of its header" in refusal(path)


def test_flipped_bits_in_gzip_are_detected(tmp_path, volume):
    data, affine = volume
    path = save(tmp_path / "ct.nii.gz", data, affine)
    content = bytearray(path.read_bytes())
    for n in range(len(content) // 2, len(content) // 2 + 20):
        content[n] ^= 0xFF
    path.write_bytes(bytes(content))
    refusal(path)


def test_empty_missing_and_unsupported_files_are_refused(tmp_path):
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    assert "0 bytes" in refusal(tmp_path / "empty.nii.gz")
    assert "does not exist" in refusal(tmp_path / "gone.nii.gz")
    (tmp_path / "notes.txt").write_text("x")
    assert "is not a scan" in refusal(tmp_path / "notes.txt")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"no image at all"))
    refusal(tmp_path / "text.nii.gz")


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_without_read_permission_is_refused(tmp_path, volume):
    path = save(tmp_path / "ct.nii.gz", *volume)
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_missing_and_sheared_affines_are_refused(tmp_path, volume):
    data, affine = volume
    image = nib.Nifti1Image(data, affine)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "ct.nii.gz")
    assert "none is assumed" in refusal(tmp_path / "ct.nii.gz")
    sheared = affine.copy()
    sheared[1, 2] = 0.5
    save(tmp_path / "tilted.nii.gz", data, sheared)
    assert "not orthogonal" in refusal(tmp_path / "tilted.nii.gz")
