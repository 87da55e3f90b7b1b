# SPDX-License-Identifier: Apache-2.0
"""Suffixes of formats, and pictures as single sagittal slices."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.io.formats import as_sagittal, file_suffix, read_picture, read_volume, stem


@pytest.mark.parametrize(
    ("name", "suffix", "expected_stem"),
    [
        ("a/ct.nii.gz", ".nii.gz", "ct"),
        ("CT.NII", ".nii", "CT"),
        ("s.1.mha", ".mha", "s.1"),
        ("s.png", ".png", "s"),
        ("i.dcm", ".dcm", "i"),
        ("notes.txt", "", "notes.txt"),
        ("folder", "", "folder"),
    ],
)
def test_suffix_and_stem(name, suffix, expected_stem):
    assert file_suffix(name) == suffix
    assert stem(name) == expected_stem


def test_a_picture_is_head_up_and_anterior_left():
    picture = np.arange(12, dtype=np.int16).reshape(3, 4)
    image = as_sagittal(picture, (2.0, 0.5))
    assert image.shape == (1, 4, 3)
    assert nib.aff2axcodes(image.affine) == ("R", "P", "S")
    data = np.asarray(image.dataobj)
    np.testing.assert_array_equal(data[0, :, -1], picture[0])  # first row: cranial
    np.testing.assert_array_equal(data[0, 0, ::-1], picture[:, 0])  # first column: anterior
    np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), (1.0, 0.5, 2.0))


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA", "P", "1"])
def test_grey_pictures_of_every_mode_are_one_channel(tmp_path, mode):
    from PIL import Image

    Image.new("L", (5, 4), 255).convert(mode).save(tmp_path / "p.png")
    assert read_picture(tmp_path / "p.png").shape == (4, 5)


def test_unreadable_and_unsupported_files_are_one_line(tmp_path):
    (tmp_path / "p.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"p\.png: cannot be read as an image"):
        read_picture(tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"p\.doc: has no supported format; expected one of \.nii\.gz, "):
        read_volume(tmp_path / "p.doc")
