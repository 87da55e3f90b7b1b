# SPDX-License-Identifier: Apache-2.0
"""DICOM-SEG and SR of series that are no plain stack of single slices: enhanced CT, tilted gantry, several folders."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series
from dicom_vertebrae import IDENTIFIERS, PATIENT, RECORDS, SHAPE, dcmqi, run, vertebra_series
from scripts.io.dicom_seg import write_vertebra_segmentation
from scripts.io.dicom_series import find_series
from scripts.io.dicom_sr import write_measurement_report
from test_dicom_multiframe import write_enhanced

pydicom = pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom", reason="DICOM-SEG needs the extra `dicom-seg`")
VERSION = "0.6.0+0123abcd"


def labelled(tmp_path):
    """Numbers of the vertebrae at every pixel (slice, row, column)."""
    _, planes = vertebra_series(tmp_path / "plain")
    labels = np.zeros(SHAPE, np.uint8)
    for k, plane in planes.items():
        labels[k] = plane
    return labels, planes


def by_position(path) -> dict[tuple[float, ...], np.ndarray]:
    """Numbers of the vertebrae by position of the frame, decoded with pydicom alone."""
    data = pydicom.dcmread(path)
    numbers = [int(s.TrackingID.split()[1]) for s in data.SegmentSequence]
    found: dict[tuple[float, ...], np.ndarray] = {}
    for pixel, frame in zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence, strict=True):
        position = tuple(round(float(v), 2) for v in frame.PlanePositionSequence[0].ImagePositionPatient)
        number = numbers[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        found[position] = found.get(position, np.zeros(pixel.shape, int)) + number * pixel
    return found


def test_a_dicom_seg_refers_to_frames_of_an_enhanced_ct(tmp_path):
    labels, planes = labelled(tmp_path)
    order = np.random.default_rng(5).permutation(SHAPE[0])
    file = write_enhanced(tmp_path / "ct", np.zeros(SHAPE, np.int16), order, **{**IDENTIFIERS, **PATIENT})
    series, seg = find_series(tmp_path / "ct"), tmp_path / "seg.dcm"
    write_vertebra_segmentation(seg, series, planes, RECORDS, VERSION)
    uid, data = pydicom.dcmread(file).SOPInstanceUID, pydicom.dcmread(seg)
    numbers = [int(s.TrackingID.split()[1]) for s in data.SegmentSequence]
    decoded = np.zeros(SHAPE, int)
    for pixel, frame in zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == uid
        k = int(order[int(source.ReferencedFrameNumber) - 1])
        assert float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) == pytest.approx(100 + 2 * k)
        decoded[k] += numbers[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1] * pixel
    np.testing.assert_array_equal(decoded, labels)
    write_measurement_report(tmp_path / "sr.dcm", series, seg, RECORDS, VERSION)
    report = hd.sr.srread(tmp_path / "sr.dcm")
    assert len(report.content.get_volumetric_roi_measurement_groups()) == len(RECORDS)
    evidence = [
        i.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for s in study.ReferencedSeriesSequence
        for i in s.ReferencedSOPSequence
    ]
    assert sorted(evidence) == sorted([uid, data.SOPInstanceUID])


def test_a_localizer_frame_moves_no_segment(tmp_path):
    labels, planes = labelled(tmp_path)
    order = [0, *range(SHAPE[0])]
    file = write_enhanced(tmp_path / "ct", np.zeros(SHAPE, np.int16), order, **{**IDENTIFIERS, **PATIENT})
    source = pydicom.dcmread(file)
    shared, frames = source.SharedFunctionalGroupsSequence[0], source.PerFrameFunctionalGroupsSequence
    for frame in frames:
        frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PlaneOrientationSequence
    scout = (("CTImageFrameTypeSequence", "FrameType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
             ("PlaneOrientationSequence", "ImageOrientationPatient", ["1", "0", "0", "0", "0", "-1"]),
             ("PlanePositionSequence", "ImagePositionPatient", ["-30", "-90", "130"]))  # fmt: skip
    for sequence, tag, value in scout:
        group = pydicom.Dataset()
        setattr(group, tag, value)
        setattr(frames[0], sequence, pydicom.Sequence([group]))
    source.save_as(file)
    series = find_series(tmp_path / "ct")
    assert series.shape[2] == SHAPE[0]
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS, VERSION)
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    groups = data.SharedFunctionalGroupsSequence[0]
    assert groups.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    numbers = [int(s.TrackingID.split()[1]) for s in data.SegmentSequence]
    decoded = np.zeros(SHAPE, int)
    for pixel, frame in zip(data.pixel_array, data.PerFrameFunctionalGroupsSequence, strict=True):
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        number = numbers[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        decoded[order[int(reference.ReferencedFrameNumber) - 1]] += number * pixel
    np.testing.assert_array_equal(decoded, labels)


def test_pixel_measures_of_every_frame_are_enough(tmp_path):
    _, planes = labelled(tmp_path)
    file = write_enhanced(tmp_path / "ct", np.zeros(SHAPE, np.int16), range(SHAPE[0]), **{**IDENTIFIERS, **PATIENT})
    data = pydicom.dcmread(file)
    shared = data.SharedFunctionalGroupsSequence[0]
    for frame in data.PerFrameFunctionalGroupsSequence:
        frame.PixelMeasuresSequence, frame.PlaneOrientationSequence = shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    for frame in data.PerFrameFunctionalGroupsSequence:
        frame.PixelMeasuresSequence[0].pop("SliceThickness", None)
    data.save_as(file)
    write_vertebra_segmentation(tmp_path / "seg.dcm", find_series(tmp_path / "ct"), planes, RECORDS, VERSION)
    assert pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames > 0


def tilted(tmp_path, spacing):
    """Series of a tilted gantry with its numbers on the straight grid, made from a rule of position."""
    shape = (16, 40, 30)
    step = np.array([0.0, 0.6, 2.0])
    folder = tmp_path / "ct"
    changes = {**IDENTIFIERS, **PATIENT, "PixelSpacing": spacing}
    write_series(folder, np.zeros(shape, np.int16), step=step, order=np.random.default_rng(1).permutation(16), **changes)
    series = find_series(folder)
    assert series.straight is not None
    i, j, k = np.indices(series.shape)
    world = np.einsum("ab,b...->a...", series.affine[:3], np.stack([i, j, k, np.ones_like(i)]))
    return series, rule(world).astype(np.uint8)


def rule(world):
    """Vertebra 1 or 2 by the position (R, A, S, mm): two balls."""
    first = ((world - np.array([21.13, 5.07, 110.21]).reshape(3, *[1] * (world.ndim - 1))) ** 2).sum(axis=0) < 7**2
    second = ((world - np.array([22.11, 1.09, 122.17]).reshape(3, *[1] * (world.ndim - 1))) ** 2).sum(axis=0) < 6**2
    return np.where(second, 2, np.where(first, 1, 0))


@pytest.mark.parametrize("spacing", [["0.6", "0.6"], ["0.8", "0.6"]])
def test_a_tilted_series_has_a_dicom_seg_on_its_slices(tmp_path, spacing):
    series, numbers = tilted(tmp_path, spacing)
    planes = {k: numbers[:, :, k].T for k in range(numbers.shape[2]) if numbers[:, :, k].any()}
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS[:2], VERSION)
    frames, total, wrong = by_position(tmp_path / "seg.dcm"), 0, 0
    for file in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(file, stop_before_pixels=True)
        position = tuple(round(float(v), 2) for v in header.ImagePositionPatient)
        rows, columns = np.indices((header.Rows, header.Columns))
        left, back, head = position[0] + columns * float(spacing[1]), position[1] + rows * float(spacing[0]), position[2]
        expected = rule(np.stack([-left, -back, np.full(left.shape, head)]))
        found = frames.get(position, np.zeros_like(expected))
        wrong += int(np.count_nonzero(found != expected))
        total += int(np.count_nonzero(expected))
    assert total > 300
    assert wrong <= (0 if spacing[0] == "0.6" else 0.12 * total)  # half a pixel of the border where the shift is no whole pixel


def test_dcmqi_reads_the_dicom_seg_of_a_tilted_series(tmp_path):
    series, numbers = tilted(tmp_path, ["0.6", "0.6"])
    planes = {k: numbers[:, :, k].T for k in range(numbers.shape[2]) if numbers[:, :, k].any()}
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS[:2], VERSION)
    out = tmp_path / "dcmqi"
    out.mkdir()
    program = dcmqi("segimage2itkimage")
    run(program, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", out, "-t", "nii", "--mergeSegments")
    (file,) = out.glob("*.nii.gz")
    assert np.count_nonzero(np.asarray(nib.load(file).dataobj)) > 0


def test_a_dicom_seg_refers_to_slices_of_all_folders(tmp_path):
    _, planes = labelled(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "ct" / name).mkdir(parents=True)
    for file, header in zip(*(lambda s: (s.files, s.headers))(find_series(tmp_path / "plain")), strict=True):
        shutil.copy(file, tmp_path / "ct" / "ab"[float(header.ImagePositionPatient[2]) > 113])
    write_vertebra_segmentation(tmp_path / "seg.dcm", find_series(tmp_path / "ct"), planes, RECORDS, VERSION)
    write_vertebra_segmentation(tmp_path / "plain.dcm", find_series(tmp_path / "plain"), planes, RECORDS, VERSION)
    one, other = (by_position(tmp_path / f"{name}.dcm") for name in ("seg", "plain"))
    assert one.keys() == other.keys()
    assert all((one[k] == other[k]).all() for k in one)
