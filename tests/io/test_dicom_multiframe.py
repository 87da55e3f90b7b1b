# SPDX-License-Identifier: Apache-2.0
"""An enhanced CT has the voxels and the affine of the same slices in files of their own."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_files import write_series, write_slice
from scripts.io.dicom import read_series

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, (6, 5, 4)).astype(np.int16)


def item(**values):
    data = pydicom.Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return pydicom.Sequence([data])


def write_enhanced(folder, volume, order=range(6), step=(0.0, 0.0, 2.0), shared_rescale=True, **changes):
    """Write an enhanced CT whose frames are in ``order``, else as ``write_series``."""
    folder.mkdir()
    file = folder / "enhanced.dcm"
    write_slice(file, volume[0], [0, 0, 0])
    data = pydicom.dcmread(file)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(data, tag)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    rescale = item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
    shared = {
        "PixelMeasuresSequence": item(PixelSpacing=["0.8", "0.6"], SliceThickness="2"),
        "PlaneOrientationSequence": item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"]),
    } | ({"PixelValueTransformationSequence": rescale} if shared_rescale else {})
    frames = []
    for k in order:
        position = np.array([-30.0, -20.0, 100.0]) + k * np.asarray(step)
        groups = {"PlanePositionSequence": item(ImagePositionPatient=[f"{p:.4f}" for p in position])}
        if not shared_rescale:
            groups["PixelValueTransformationSequence"] = item(RescaleSlope="1", RescaleIntercept=str(-1024 - k))
        frames.append(item(**groups)[0])
    data.SharedFunctionalGroupsSequence = item(**shared)
    data.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    data.NumberOfFrames = len(frames)
    data.PixelData = np.stack([(volume[k] + 1024).astype(np.uint16) for k in order]).tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    data.save_as(file)
    return file


@pytest.mark.parametrize("order", [range(6), [3, 0, 5, 1, 4, 2]])
def test_an_enhanced_ct_equals_its_slices(tmp_path, volume, order):
    write_series(tmp_path / "single", volume)
    write_enhanced(tmp_path / "enhanced", volume, order)
    expected, image = (read_series(tmp_path / name)[0] for name in ("single", "enhanced"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-9)


def test_every_frame_has_its_own_rescaling(tmp_path, volume):
    write_enhanced(tmp_path / "s", volume, shared_rescale=False)
    expected = volume.transpose(2, 1, 0) - np.arange(6)
    np.testing.assert_array_equal(np.asarray(read_series(tmp_path / "s")[0].dataobj), expected)


def test_an_enhanced_ct_of_a_tilted_gantry_is_resampled(tmp_path, volume):
    write_enhanced(tmp_path / "s", volume, step=(0.0, 0.6, 2.0))
    image, (note,) = read_series(tmp_path / "s")
    assert "tilted by 16.7 degrees" in note
    assert image.shape[1] > 5


def test_two_phases_of_an_enhanced_ct_are_refused(tmp_path, volume):
    write_enhanced(tmp_path / "s", volume, [*range(6), *range(6)])
    with pytest.raises(ValueError, match=r"s: frame 1 and frame 7 have the same position .*; keep one phase"):
        read_series(tmp_path / "s")


def test_localizer_frames_of_an_enhanced_ct_are_left_out(tmp_path, volume):
    write_enhanced(tmp_path / "plain", volume)
    file = write_enhanced(tmp_path / "s", volume, [0, *range(6)])
    data = pydicom.dcmread(file)
    data.PerFrameFunctionalGroupsSequence[0].CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    data.save_as(file)
    (expected, _), (image, notes) = (read_series(tmp_path / name) for name in ("plain", "s"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(expected.dataobj))
    assert [n for n in notes if "localizer" in n]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"PerFrameFunctionalGroupsSequence": pydicom.Sequence([])}, "positions of 0"),
        ({"SharedFunctionalGroupsSequence": pydicom.Sequence([])}, "lacks RescaleSlope"),
        ({"NumberOfFrames": 7}, "has 7 frames, but positions of 6"),
        ({"Modality": "MR"}, "Modality is MR"),
        ({"PixelData": b"\0" * 16}, "cannot be decoded"),
    ],
)
def test_incomplete_enhanced_cts_are_one_line(tmp_path, volume, changes, word):
    file = write_enhanced(tmp_path / "s", volume, **changes)
    with pytest.raises(ValueError, match=word) as refused:
        read_series(tmp_path / "s")
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
