# SPDX-License-Identifier: Apache-2.0
"""DICOM-SEG of a series: read back by other libraries and compared with the mask on the source slices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_slice
from dicom_vertebrae import RECORDS, VertebraRecord, dcmqi, run, vertebra_series
from fakes import MARK_HU, FakeRunner, Threshold, affine_of, ball_scan
from scipy.spatial.transform import Rotation
from scripts.inference.case import Outputs, segment_case
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.io.dicom_codes import level_concept
from scripts.io.dicom_seg import WRITE_BYTES_PER_PIXEL, write_segmentation, write_vertebra_segmentation

pydicom = pytest.importorskip("pydicom")
SPACING = (0.9, 1.1, 2.0)
PATIENT = {
    "PatientName": "Phantom^Ball",
    "PatientID": "ball",
    "PatientBirthDate": "",
    "PatientSex": "O",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.2",
    "StudyDate": "20260101",
    "StudyTime": "120000",
    "StudyID": "1",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "SeriesNumber": "3",
}


def series(folder: Path, turned: bool, **changes) -> tuple[np.ndarray, np.ndarray]:
    """Write balls as a series in shuffled file names; returns the voxels (I, J, K) and their affine (R, A, S, mm)."""
    folder.mkdir()
    shape = (64, 60, 44)
    directions = Rotation.from_euler("xyz", [9, -7, 12], degrees=True).as_matrix() if turned else np.eye(3)
    lps = affine_of(shape, SPACING, directions)
    data = ball_scan(shape, lps, [(0, 4, -20), (-3, 0, 22)], 14.0)
    data += np.random.default_rng(0).integers(-150, -100, shape).astype(np.int16)
    for n, k in enumerate(np.random.default_rng(1).permutation(shape[2])):
        position = lps[:3, :3] @ [0, 0, k] + lps[:3, 3]
        values = {
            "ImageOrientationPatient": [f"{v:.8f}" for v in (*directions[:, 0], *directions[:, 1])],
            "PixelSpacing": [str(SPACING[1]), str(SPACING[0])],
            "InstanceNumber": str(int(k) + 1),
        }
        write_slice(folder / f"{n:03d}.dcm", data[:, :, k].T, position, **{**PATIENT, **values, **changes})
    return data, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def segment(folder: Path, base: Path) -> dict:
    pipeline = Pipeline({"sagittal": [FakeRunner(Threshold())]}, PatchConfig((64, 64)))
    lines: list[str] = []
    result = segment_case(str(folder), base, pipeline, Outputs(preview=False), log=lines.append)
    return {**result, "lines": lines}


@pytest.mark.parametrize("turned", [False, True])
def test_the_mask_of_a_series_is_on_its_slices(tmp_path, turned):
    data, affine = series(tmp_path / "ct", turned)
    result = segment(tmp_path / "ct", tmp_path / "out")
    mask = nib.load(tmp_path / "out_fracture.nii.gz")
    np.testing.assert_allclose(mask.affine, affine, atol=1e-3)
    segmented, expected = np.asarray(mask.dataobj) > 0, data > MARK_HU
    assert len(result["findings"]) == 2
    dice = 2 * (segmented & expected).sum() / (segmented.sum() + expected.sum())
    assert dice > 0.95  # resampling averages the noise of 25 HU away


@pytest.fixture(params=[False, True], ids=["straight", "oblique"])
def segmented(request, tmp_path):
    pytest.importorskip("highdicom", reason="DICOM-SEG needs the extra `dicom-seg`")
    series(tmp_path / "ct", request.param)
    result = segment(tmp_path / "ct", tmp_path / "out")
    assert (tmp_path / "out_seg.dcm").is_file(), result["lines"]
    return tmp_path, result


def frames(path: Path) -> dict[tuple[str, int], np.ndarray]:
    """Pixels by source slice and segment, decoded with pydicom alone."""
    data = pydicom.dcmread(path)
    pixels = data.pixel_array if data.pixel_array.ndim == 3 else data.pixel_array[None]
    by_source = {}
    for pixel, frame in zip(pixels, data.PerFrameFunctionalGroupsSequence, strict=True):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        by_source[source, int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)] = pixel
    return by_source


def test_pixels_are_on_the_slices_they_reference(segmented):
    root, _ = segmented
    mask = np.asarray(nib.load(root / "out_fracture.nii.gz").dataobj) > 0
    affine = nib.load(root / "out_fracture.nii.gz").affine
    by_source: dict[str, np.ndarray] = {}
    for (source, _), pixel in frames(root / "out_seg.dcm").items():
        by_source[source] = by_source.get(source, 0) + pixel
    total = 0
    for file in (root / "ct").iterdir():
        header = pydicom.dcmread(file, stop_before_pixels=True)
        position = np.diag([-1.0, -1.0, 1.0]) @ np.array(header.ImagePositionPatient, float)
        k = round(float((np.linalg.inv(affine) @ [*position, 1])[2]))
        segment_pixels = by_source.get(header.SOPInstanceUID, np.zeros(mask.shape[1::-1]))
        np.testing.assert_array_equal(segment_pixels > 0, mask[:, :, k].T)
        total += int((segment_pixels > 0).sum())
    assert total == mask.sum() > 0


def test_attributes_of_the_source_and_the_disclaimer(segmented):
    root, result = segmented
    data = pydicom.dcmread(root / "out_seg.dcm", stop_before_pixels=True)
    source = pydicom.dcmread(next((root / "ct").iterdir()), stop_before_pixels=True)
    for name in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
        assert data.get(name) == source.get(name)
    assert "RESEARCH USE ONLY" in data.SeriesDescription
    assert data.Modality == "SEG"
    assert len(data.SegmentSequence) == len(result["findings"])
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def test_dcmqi_reads_the_same_mask(segmented):
    root, _ = segmented
    out = root / "dcmqi"
    out.mkdir()
    run(dcmqi("segimage2itkimage"), "--inputDICOM", root / "out_seg.dcm", "--outputDirectory", out, "-t", "nii")
    mask = nib.load(root / "out_fracture.nii.gz")
    full = np.asarray(mask.dataobj) > 0
    decoded = np.zeros(full.shape, bool)
    for file in out.glob("*.nii.gz"):
        image = nib.load(file)
        index = np.argwhere(np.asarray(image.dataobj) > 0)
        to_mask = np.linalg.inv(mask.affine) @ image.affine
        voxels = index @ to_mask[:3, :3].T + to_mask[:3, 3]
        np.testing.assert_allclose(voxels, np.round(voxels), atol=0.02)
        decoded[tuple(np.round(voxels).astype(int).T)] = True
    assert np.array_equal(decoded, full)


def test_gdcm_reads_the_same_number_of_pixels(segmented):
    import itk

    root, _ = segmented
    array = itk.array_from_image(itk.imread(str(root / "out_seg.dcm"), itk.UC, imageio=itk.GDCMImageIO.New()))
    mask = np.asarray(nib.load(root / "out_fracture.nii.gz").dataobj) > 0
    assert np.count_nonzero(array) == mask.sum()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda files: files[5].unlink(), "missing"),
        (lambda files: shutil.copy(files[5], files[5].with_name("copy.dcm")), None),
        (lambda files: edit(files[5], Modality="MR"), "Modality is MR"),
        (lambda files: edit(files[5], SeriesInstanceUID="1.2.9"), "2 series"),
        (lambda files: edit(files[5], PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
        (lambda files: edit(files[5], RescaleSlope=None), "RescaleSlope"),
        (lambda files: files[5].write_bytes(files[5].read_bytes()[:3000]), None),
    ],
    ids=["missing slice", "copy", "modality", "two series", "photometric", "no rescale", "truncated"],
)
def test_an_irregular_series_is_refused_without_output(tmp_path, change, word):
    series(tmp_path / "ct", False)
    middle = sorted((tmp_path / "ct").iterdir(), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))
    change(middle[15:])
    if (tmp_path / "ct" / "copy.dcm").exists():
        assert any("repeat a slice" in note for note in segment(tmp_path / "ct", tmp_path / "out")["notes"])
        return
    with pytest.raises(ValueError, match=word or str(tmp_path / "ct")):
        segment(tmp_path / "ct", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def edit(file: Path, **changes) -> None:
    data = pydicom.dcmread(file)
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(file)


def test_only_the_dicom_seg_is_left_out_without_a_study_uid(tmp_path):
    pytest.importorskip("highdicom", reason="DICOM-SEG needs the extra `dicom-seg`")
    series(tmp_path / "ct", False, StudyInstanceUID=None)
    result = segment(tmp_path / "ct", tmp_path / "out")
    assert (tmp_path / "out_fracture.nii.gz").is_file()
    assert not (tmp_path / "out_seg.dcm").exists()
    assert any("StudyInstanceUID" in note for note in result["notes"])


VERSION = "0.6.0+0123abcd"


@pytest.fixture
def vertebrae(tmp_path):
    pytest.importorskip("highdicom", reason="DICOM-SEG needs the extra `dicom-seg`")
    series, planes = vertebra_series(tmp_path / "ct")
    return tmp_path / "seg.dcm", series, planes


def test_every_vertebra_is_one_segment(vertebrae):
    import highdicom as hd

    path, series, planes = vertebrae
    write_vertebra_segmentation(path, series, planes, RECORDS, VERSION)
    seg = hd.seg.segread(path)
    uids = [header.SOPInstanceUID for header in series.headers]
    labels = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    expected = np.zeros_like(labels)
    for k, plane in planes.items():
        expected[k] = np.select([plane == r.vertebra for r in RECORDS], [1, 2, 3, 4])
    assert expected.any()
    np.testing.assert_array_equal(labels, expected)
    assert seg.SegmentsOverlap == "NO"


def test_segments_are_named_and_coded(vertebrae):
    import highdicom as hd

    path, series, planes = vertebrae
    write_vertebra_segmentation(path, series, planes, RECORDS, VERSION)
    seg = hd.seg.segread(path)
    descriptions = [seg.get_segment_description(n) for n in seg.segment_numbers]
    assert [d.segment_label for d in descriptions] == ["T11", "T12 fractured", "L6?", "vertebra 5"]
    for record, description in zip(RECORDS, descriptions, strict=True):
        assert description.segmented_property_type == level_concept(record.level).code()
        assert description.segmented_property_category.meaning == "Anatomical Structure"
        modifiers = description.segmented_property_type.get("SegmentedPropertyTypeModifierCodeSequence", [])
        assert [m.CodeMeaning for m in modifiers] == (["Fracture"] if record.fractured else [])
        assert description.SegmentDescription.startswith("RESEARCH USE ONLY")
        assert ("guess" in description.SegmentDescription) == (record.level_source == "guess")
        assert description.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == VERSION
    colours = [tuple(d.RecommendedDisplayCIELabValue) for d in descriptions]
    assert colours.count(colours[1]) == 1  # of the fractured one
    assert len({d.tracking_uid for d in descriptions}) == len(RECORDS)
    assert "RESEARCH USE ONLY" in seg.SeriesDescription
    assert "RESEARCH USE ONLY" in seg.ContentDescription


def test_dcmqi_reads_every_vertebra(vertebrae):
    path, series, planes = vertebrae
    write_vertebra_segmentation(path, series, planes, RECORDS, VERSION)
    out = path.parent / "dcmqi"
    out.mkdir()
    run(dcmqi("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", out, "-t", "nii", "--mergeSegments")
    (file,) = out.glob("*.nii.gz")  # one file, as no pixel is in two segments
    image = nib.load(file)
    index = np.argwhere(np.asarray(image.dataobj) > 0)
    voxels = index @ (np.linalg.inv(series.affine) @ image.affine)[:3, :3].T + (np.linalg.inv(series.affine) @ image.affine)[:3, 3]
    i, j, k = np.round(voxels).astype(int).T
    np.testing.assert_allclose(voxels, np.stack([i, j, k], axis=1), atol=0.02)
    decoded = np.zeros(series.shape, int)
    decoded[i, j, k] = np.asarray(image.dataobj)[tuple(index.T)]
    for n, record in enumerate(RECORDS, 1):
        expected = np.zeros(series.shape, bool)
        for s, plane in planes.items():
            expected[:, :, s] = (plane == record.vertebra).T
        np.testing.assert_array_equal(decoded == n, expected)
    (attributes,) = json.loads((out / "meta.json").read_text(encoding="utf-8"))["segmentAttributes"]
    assert [a["SegmentedPropertyTypeCodeSequence"]["CodeMeaning"] for a in attributes] == [
        level_concept(r.level).meaning for r in RECORDS
    ]


def test_slices_without_vertebrae_are_left_out(vertebrae):
    path, series, planes = vertebrae
    planes = {**planes, 0: np.zeros_like(planes[5]), 13: np.zeros_like(planes[5])}
    write_vertebra_segmentation(path, series, planes, RECORDS, VERSION)
    assert {source for source, _ in frames(path)} == {series.headers[k].SOPInstanceUID for k in range(2, 13)}


def test_more_vertebrae_than_a_byte_holds(vertebrae):
    import highdicom as hd

    path, series, _ = vertebrae
    plane = np.arange(480, dtype=np.uint16).reshape(20, 24) % 260
    write_vertebra_segmentation(path, series, {4: plane}, [VertebraRecord(n) for n in range(1, 260)], VERSION)
    labels = hd.seg.segread(path).get_pixels_by_source_instance([series.headers[4].SOPInstanceUID], combine_segments=True)
    np.testing.assert_array_equal(labels[0], plane)


def test_text_that_dicom_cannot_hold_is_replaced(vertebrae):
    path, series, planes = vertebrae
    records = [VertebraRecord(n, level="Brustwirbel\\ü\n" + "x" * 80, level_source="mask") for n in (1, 2, 3, 5)]
    write_vertebra_segmentation(path, series, planes, records, "ünversion" * 20)
    segment = pydicom.dcmread(path, stop_before_pixels=True).SegmentSequence[0]
    assert segment.SegmentLabel.startswith("Brustwirbel/? x")
    assert len(segment.SegmentLabel) <= 64
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Vertebra"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"FrameOfReferenceUID": None}, "lacks FrameOfReferenceUID"),
        ({"SOPInstanceUID": "1.2.3.4"}, "several slices have one SOPInstanceUID"),
        ({"PatientSex": "X", "PatientID": None, "SeriesNumber": None, "SliceThickness": ""}, None),
        ({"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jürgen"}, None),
    ],
    ids=["frame of reference", "one UID", "patient", "UTF-8"],
)
def test_attributes_of_the_source(tmp_path, changes, word):
    pytest.importorskip("highdicom", reason="DICOM-SEG needs the extra `dicom-seg`")
    series, planes = vertebra_series(tmp_path / "ct", **changes)
    if word is None:
        write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS, VERSION)
        data = pydicom.dcmread(tmp_path / "seg.dcm", stop_before_pixels=True)
        assert str(data.PatientName) == changes.get("PatientName", "Phantom^Spine")
        return
    with pytest.raises(ValueError, match=word):
        write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS, VERSION)
    assert [f.name for f in tmp_path.iterdir()] == ["ct"]


def test_vertebrae_and_rows_that_do_not_fit_are_refused(vertebrae):
    path, series, planes = vertebrae
    empty = {3: np.zeros((20, 24), np.uint8)}
    for nothing in ({}, empty):
        with pytest.raises(ValueError, match="there is no vertebra"):
            write_vertebra_segmentation(path, series, nothing, RECORDS, VERSION)
        with pytest.raises(ValueError, match="there is no finding"):
            write_segmentation(path, series, nothing, [], VERSION)
    with pytest.raises(ValueError, match="number 5, which has no row"):
        write_vertebra_segmentation(path, series, planes, RECORDS[:3], VERSION)
    with pytest.raises(ValueError, match="two rows have one number"):
        write_vertebra_segmentation(path, series, planes, [*RECORDS, RECORDS[0]], VERSION)
    with pytest.raises(ValueError, match=r"slice 14 .* one of 14 slices"):
        write_vertebra_segmentation(path, series, {14: planes[5]}, RECORDS, VERSION)
    with pytest.raises(ValueError, match=r"slice 5 of \(24, 20\) pixels; must be .*\(20, 24\)"):
        write_vertebra_segmentation(path, series, {5: planes[5].T}, RECORDS, VERSION)
    assert not path.exists()


def test_memory_is_within_the_stated_bytes(tmp_path):
    import tracemalloc

    pytest.importorskip("highdicom", reason="DICOM-SEG needs the extra `dicom-seg`")
    series, planes = vertebra_series(tmp_path / "ct", shape=(20, 400, 400))
    write_vertebra_segmentation(tmp_path / "first.dcm", series, planes, RECORDS, VERSION)  # imports and dictionaries
    tracemalloc.start()
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS, VERSION)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < WRITE_BYTES_PER_PIXEL * len(planes) * 400 * 400 + 2**20
