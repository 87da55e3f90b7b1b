# SPDX-License-Identifier: Apache-2.0
"""DICOM series: order by position, geometry, HU, and one error line for each kind of irregular series."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from dicom_files import write_series, write_slice
from scripts.io.dicom import read_series, read_slice
from scripts.io.dicom_series import find_series

pydicom = pytest.importorskip("pydicom")
DICOM = SHARED / "data" / "totalsegmentator" / "example_ct_dicom"


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, (6, 5, 4)).astype(np.int16)


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1), [3, 0, 5, 1, 4, 2]])
def test_slices_are_ordered_by_position(tmp_path, volume, order):
    write_series(tmp_path / "s", volume, order=order)
    image, notes = read_series(tmp_path / "s")
    assert notes == []
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.transpose(2, 1, 0))
    # Axes of DICOM run to left, posterior, head, those of NIfTI to right, anterior, head.
    np.testing.assert_allclose(image.affine @ [3, 4, 5, 1], [30 - 3 * 0.6, 20 - 4 * 0.8, 100 + 5 * 2, 1], atol=1e-6)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")


def test_geometry_equals_that_of_itk(tmp_path, volume):
    from monai.transforms import LoadImage

    write_series(tmp_path / "s", volume, order=[3, 0, 5, 1, 4, 2])
    image = nib.as_closest_canonical(read_series(tmp_path / "s")[0])
    loaded = LoadImage(image_only=True, reader="ITKReader")(str(tmp_path / "s"))
    expected = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(loaded), np.asarray(loaded.affine)))
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj))


def test_a_fractional_slope_is_not_truncated(tmp_path, volume):
    write_series(tmp_path / "s", volume, RescaleSlope="0.5")
    expected = (volume.transpose(2, 1, 0) + 1024.0) * 0.5 - 1024
    np.testing.assert_allclose(np.asarray(read_series(tmp_path / "s")[0].dataobj), expected, atol=1e-3)


def test_values_above_16_bits_are_clipped_not_wrapped(tmp_path, volume):
    raw = (volume + 1024).astype(np.uint16)
    raw[2, 1:3, 1:3] = 60000
    write_series(tmp_path / "s", volume)
    for k, file in enumerate(sorted((tmp_path / "s").iterdir())):
        data = pydicom.dcmread(file)
        data.PixelData = raw[k].tobytes()
        data.save_as(file)
    read = np.asarray(read_series(tmp_path / "s")[0].dataobj)
    np.testing.assert_array_equal(read, np.clip(raw.astype(int) - 1024, -32768, 32767).transpose(2, 1, 0))


def test_a_tilted_gantry_is_resampled_with_a_note(tmp_path):
    """A linear field, which linear interpolation reproduces, at its world positions."""
    shape, step = (8, 12, 10), np.array([0.0, 0.6, 2.0])
    k, r, c = np.indices(shape)
    left, posterior, head = -30 + 0.6 * c, -20 + 0.8 * r + step[1] * k, 100 + step[2] * k
    write_series(tmp_path / "s", np.rint(10 * left + 20 * posterior + 5 * head).astype(np.int16), step=step)
    image, (note,) = read_series(tmp_path / "s")
    assert "tilted by 16.7 degrees" in note
    assert "resampled" in note
    directions = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    data = np.asarray(image.dataobj)
    index = np.argwhere(data != -1024)
    right, anterior, head = (index @ image.affine[:3, :3].T + image.affine[:3, 3]).T
    assert len(index) >= 0.9 * np.prod(shape)
    error = np.abs(data[tuple(index.T)] - (-10 * right - 20 * anterior + 5 * head))
    assert np.median(error) <= 1.0  # of rounding
    assert error.max() <= 5 * 2.0 + 1.0  # where a single slice covers the voxel


def test_localizers_and_copies_are_left_out_with_a_note(tmp_path, volume):
    files = write_series(tmp_path / "s", volume)
    write_slice(tmp_path / "s" / "scout.dcm", volume[0], [0, 0, 0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "s" / "copy.dcm").write_bytes(files[2].read_bytes())
    (tmp_path / "s" / "readme.txt").write_text("no DICOM")
    image, notes = read_series(tmp_path / "s")
    assert image.shape == (4, 5, 6)
    assert [word in note for word, note in zip(("readme.txt", "1 localizer", "repeat a slice"), notes, strict=True)] == [True] * 3


def test_slices_with_one_uid_at_other_positions_are_kept(tmp_path, volume):
    write_series(tmp_path / "s", volume, SOPInstanceUID="1.2.3.4")
    assert read_series(tmp_path / "s")[0].shape == (4, 5, 6)


def missing_slice(folder, volume):
    write_series(folder, volume)[3].unlink()


def shifted(folder, volume):
    for k in range(6):
        write_slice(folder_of(folder) / f"{k}.dcm", volume[k], [-30, -20 + 20 * (k in (2, 3)), 100 + 2 * k])


def folder_of(folder):
    folder.mkdir(exist_ok=True)
    return folder


def two_series(folder, volume):
    write_series(folder, volume)
    write_slice(folder / "x.dcm", volume[0], [-30, -20, 90], SeriesInstanceUID="1.2.4")


def two_phases(folder, volume):
    write_series(folder, volume)
    write_slice(folder / "x.dcm", volume[0], [-30, -20, 100])


def not_parallel(folder, volume):
    write_series(folder, volume)
    write_slice(folder / "x.dcm", volume[0], [-30, -20, 112], ImageOrientationPatient=["0", "1", "0", "0", "0", "1"])


def other_size(folder, volume):
    write_series(folder, volume)
    write_slice(folder / "x.dcm", volume[0][:3], [-30, -20, 112])


def empty(folder, volume):
    folder.mkdir()
    (folder / "a.txt").write_text("x")


def changed(**changes):
    return lambda folder, volume: write_series(folder, volume, **changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing_slice, r"1 slice\(s\) are missing near 002.dcm"),
        (shifted, r"20.0 mm between 1.dcm and 2.dcm"),
        (two_series, "contains 2 series: 1.2.3"),
        (two_phases, "have the same position"),
        (not_parallel, "x.dcm: is not parallel"),
        (other_size, "x.dcm: has 3 x 4 pixels"),
        (empty, "no DICOM file"),
        (changed(Modality="MR"), "Modality is MR"),
        (changed(PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
        (changed(RescaleIntercept=None), "lacks RescaleIntercept"),
        (changed(ImagePositionPatient=None), "lacks ImagePositionPatient"),
        (changed(NumberOfFrames=3), "several frames, beside other files"),
        (changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "only localizers"),
    ],
)
def test_irregular_series_are_refused_in_one_line(tmp_path, volume, make, words):
    make(tmp_path / "s", volume)
    with pytest.raises(ValueError, match=words) as caught:
        read_series(tmp_path / "s")
    assert str(tmp_path / "s") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_pixels_are_one_line(tmp_path, volume):
    file = write_series(tmp_path / "s", volume)[2]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        read_series(tmp_path / "s")


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        ("0 1 0 0 0 -1", lambda p: p),
        ("0 1 0 0 0 1", lambda p: p[::-1]),
        ("0 -1 0 0 0 -1", lambda p: p[:, ::-1]),
        ("0 0 -1 0 1 0", lambda p: p.T),
        ("0 0 1 0 -1 0", lambda p: p[::-1, ::-1].T),
        ("0.1 0.995 0 0 0 -1", lambda p: p),
    ],
)
def test_a_sagittal_slice_is_head_up_and_anterior_left(tmp_path, volume, orientation, stored):
    spacing = ["0.8", "0.6"] if stored(np.zeros((2, 3))).shape == (2, 3) else ["0.6", "0.8"]
    pixels = np.ascontiguousarray(stored(volume[0]))
    write_slice(tmp_path / "a.dcm", pixels, [0, 0, 0], ImageOrientationPatient=orientation.split(), PixelSpacing=spacing)
    hu, row_and_column_mm = read_slice(tmp_path / "a.dcm")
    np.testing.assert_array_equal(hu, volume[0])
    assert row_and_column_mm == (0.8, 0.6)


@pytest.mark.parametrize(("orientation", "word"), [("1 0 0 0 1 0", "an axial"), ("1 0 0 0 0 -1", "a coronal")])
def test_a_single_slice_of_another_plane_is_refused(tmp_path, volume, orientation, word):
    write_slice(tmp_path / "a.dcm", volume[0], [0, 0, 0], ImageOrientationPatient=orientation.split())
    with pytest.raises(ValueError, match=rf"a\.dcm: is {word} slice.*must be sagittal"):
        read_slice(tmp_path / "a.dcm")


def test_jpeg_lossless_of_rsna_2022_is_decoded(tmp_path, volume):
    itk = pytest.importorskip("itk")
    for file in write_series(tmp_path / "s", volume, order=[3, 0, 5, 1, 4, 2]):
        reader = itk.GDCMImageIO.New()
        image = itk.imread(str(file), itk.SS, imageio=reader)
        reader.SetCompressionType(itk.GDCMImageIOEnums.Compression_JPEG)
        reader.KeepOriginalUIDOn()
        itk.imwrite(image, str(file), imageio=reader, compression=True)
        assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    image, notes = read_series(tmp_path / "s")
    assert notes == []
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.transpose(2, 1, 0))


@pytest.mark.skipif(not DICOM.is_dir(), reason=f"the DICOM series is not at {DICOM}")
def test_a_compressed_real_series_reads():
    image, _ = read_series(DICOM)
    data = np.asarray(image.dataobj)
    assert image.shape[2] == len(list(DICOM.iterdir()))
    assert data.min() >= -1100
    assert 500 < data.max() < 4000


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("PixelSpacing", ["1"]),
        ("PixelSpacing", ["0", "1"]),
        ("ImagePositionPatient", ["0", "1"]),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"]),
        ("PixelSpacing", ["-1", "1"]),
        ("ImageOrientationPatient", ["1", "0"]),
        ("RescaleSlope", "0"),
        ("Rows", 0),
    ],
)
def test_impossible_geometry_is_one_line(tmp_path, volume, tag, value):
    write_series(tmp_path / "s", volume, **{tag: value})
    with pytest.raises(ValueError, match=tag) as refused:
        find_series(tmp_path / "s")
    assert str(tmp_path / "s") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [150, 152, 400])
def test_header_that_ends_inside_an_element(tmp_path, volume, size):
    file = write_series(tmp_path / "s", volume)[2]
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=str(file)) as refused:
        find_series(tmp_path / "s")
    assert "\n" not in str(refused.value)


def test_empty_and_hidden_files_have_a_note(tmp_path, volume):
    files = write_series(tmp_path / "s", volume)
    files[-1].write_bytes(b"")
    (tmp_path / "s" / "._000.dcm").write_bytes(b"\0\5\x16\7")
    notes = find_series(tmp_path / "s").notes
    assert ["0 bytes" in notes[0], "macOS" in notes[1]] == [True, True]
