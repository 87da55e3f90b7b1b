# SPDX-License-Identifier: Apache-2.0
"""Files of a scan with one decision per vertebra, from NIfTI in any orientation and from DICOM."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series
from fakes import FakeRunner, HuCodedOutputs
from scripts.inference import vertebra_files
from scripts.inference.case import Outputs, segment_case
from scripts.inference.memory import plan_memory
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import SAMPLE_BYTES, PatchConfig
from scripts.io import dicom_seg
from scripts.io.scan_header import read_header
from scripts.io.working_grid import WorkingGrid
from scripts.postprocessing.findings import PostProcessing
from scripts.postprocessing.measurements import FINDING_COLUMNS
from scripts.postprocessing.vertebra_record import VERTEBRA_COLUMNS
from spine_scene import Spine, affine_of, make_spine, overlap, read_ras, save_nifti

SPACING = (2.0, 2.0, 2.0)
QUICK = Outputs(preview=False)


def segment(path, base: Path, num_outputs: int = 4, post=None, outputs: Outputs = QUICK, **kwargs) -> dict:
    runner = FakeRunner(HuCodedOutputs(num_outputs))
    pipeline = Pipeline({"sagittal": [runner]}, PatchConfig((64, 64)), post, spacing=SPACING)
    kwargs = {"expect_hu": False, "log": lambda line: None, **kwargs}  # the values are codes of the outputs
    return segment_case(str(path), base, pipeline, outputs, **kwargs)


@pytest.fixture(scope="module")
def spine() -> Spine:
    return make_spine(4, fractured=(2, 4), kyphosis=10.0, facets=True)


@pytest.fixture
def scan(tmp_path, spine) -> Path:
    return save_nifti(tmp_path / "ct.nii.gz", spine.hu, affine_of(spine), "PIR")


def test_masks_rows_and_findings_of_a_scan(tmp_path, spine, scan):
    result = segment(scan, tmp_path / "out" / "ct")
    image = nib.load(tmp_path / "out" / "ct_vertebrae.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("P", "I", "R")
    np.testing.assert_allclose(image.affine, nib.load(scan).affine, atol=1e-4)
    assert image.get_data_dtype() == np.uint8
    assert b"vertebra 2, fractured" in image.header.extensions[0].get_content()
    vertebrae, fracture = (read_ras(tmp_path / "out" / f"ct_{n}.nii.gz") for n in ("vertebrae", "fracture"))
    assert overlap(vertebrae, spine.labels) > 0.95
    assert np.array_equal(fracture > 0, np.isin(vertebrae, (2, 4)))
    rows = result["vertebrae"]
    assert [(r["vertebra"], r["fractured"], r["case"]) for r in rows] == [(n, int(n in (2, 4)), "ct") for n in range(1, 5)]
    assert all(tuple(r) == VERTEBRA_COLUMNS for r in rows)
    for row in rows:
        assert row["volume_ml"] == pytest.approx(np.count_nonzero(vertebrae == row["vertebra"]) * 8 / 1000, abs=0.006)
    findings = {f["volume_ml"]: f for f in result["findings"]}
    assert len(findings) == 2
    assert {f["levels"] for f in result["findings"]} == {""}  # unknown, and not outside of given vertebrae
    assert all(set(f) == set(FINDING_COLUMNS) for f in findings.values())
    expected = sorted(np.count_nonzero(vertebrae == n) * 8 / 1000 for n in (2, 4))
    np.testing.assert_allclose(sorted(findings), expected, atol=1e-3)
    assert json.loads((tmp_path / "out" / "cases" / "ct.json").read_text())["vertebrae"] == rows
    assert not list((tmp_path / "out").glob(".*"))


def test_masks_of_other_settings_do_not_outlive_their_result(tmp_path, scan):
    base = tmp_path / "out" / "ct"
    segment(scan, base, outputs=Outputs())
    before = {p.name for p in base.parent.iterdir() if p.is_file()}
    assert {"ct_vertebrae.nii.gz", "ct_fracture.nii.gz", "ct_overview.png", "ct_viewer.html", "ct_overlay.png"} <= before
    segment(scan, base, outputs=Outputs(statistics_only=True))
    assert [p for p in base.parent.iterdir() if p.is_file()] == []
    assert (base.parent / "cases" / "ct.json").is_file()


def test_a_mask_of_another_program_stays(tmp_path, scan):
    own = save_nifti(tmp_path / "ct_fracture.nii.gz", np.zeros((8, 8, 8), np.uint8), np.eye(4))
    before = own.read_bytes()
    with pytest.raises(ValueError, match=r"ct_fracture\.nii\.gz: exists and was not written by this program"):
        segment(scan, tmp_path / "ct")
    assert own.read_bytes() == before


def test_findings_of_scans_of_one_name_have_their_folders(tmp_path, scan):
    result = segment(scan, tmp_path / "out" / "p1" / "ct", facts={"case_path": "p1/ct"})
    assert {row["case"] for row in (*result["findings"], *result["vertebrae"])} == {"p1/ct"}


def test_statistics_only_writes_no_image(tmp_path, scan):
    plain = segment(scan, tmp_path / "a" / "ct")
    result = segment(scan, tmp_path / "b" / "ct", outputs=Outputs(statistics_only=True))
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"cases"}
    assert (result["vertebrae"], result["findings"]) == (plain["vertebrae"], plain["findings"])


def test_probabilities_are_those_of_voxels(tmp_path, spine, scan):
    segment(scan, tmp_path / "ct", outputs=replace(QUICK, save_probabilities=True))
    image = nib.load(tmp_path / "ct_probability.nii.gz")
    assert image.get_data_dtype() == np.float32
    probability = read_ras(tmp_path / "ct_probability.nii.gz")
    assert 0 <= probability.min() <= probability.max() <= 1
    fractured_body = (spine.hu == 700) & np.isin(spine.labels, (2, 4))
    assert probability[fractured_body].min() > 0.9
    assert probability[spine.hu < 600].max() < 0.1


@pytest.mark.parametrize("mask", [False, True])
def test_scan_without_a_vertebra_has_empty_masks_and_a_note(tmp_path, spine, mask):
    hu = np.random.default_rng(0).integers(-120, 90, spine.hu.shape).astype(np.int16)
    path = save_nifti(tmp_path / "ct.nii.gz", hu, affine_of(spine))
    given = str(save_nifti(tmp_path / "mask.nii.gz", np.zeros_like(spine.labels), affine_of(spine))) if mask else None
    lines: list[str] = []
    result = segment(path, tmp_path / "ct", outputs=Outputs(save_probabilities=True), vertebrae=given, log=lines.append)
    assert (result["vertebrae"], result["findings"]) == ([], [])
    assert any("no vertebra was found" in n for n in result["notes"])
    assert any("note: no vertebra was found" in line for line in lines)
    for name in ("vertebrae", "fracture", "probability"):
        assert not np.asarray(nib.load(tmp_path / f"ct_{name}.nii.gz").dataobj).any()


@pytest.mark.parametrize("num_outputs", [3, 2])
def test_decision_of_voxels_is_that_of_a_network_without_a_body(tmp_path, scan, num_outputs):
    """Bitwise; a network of three outputs also has vertebra-level consistency."""
    post = PostProcessing(decision="voxel", consistency_mm=None if num_outputs == 2 else (18.0, 12.0, 3.0))
    outputs = replace(QUICK, save_probabilities=True)
    voxel = segment(scan, tmp_path / "a" / "ct", post=post, outputs=outputs)
    plain = segment(scan, tmp_path / "b" / "ct", num_outputs, replace(post, decision="vertebra"), outputs)
    assert voxel["findings"] == plain["findings"]
    assert len(voxel["findings"]) == 2
    assert "vertebrae" not in voxel
    for name in ("fracture", "probability"):
        assert (tmp_path / "a" / f"ct_{name}.nii.gz").read_bytes() == (tmp_path / "b" / f"ct_{name}.nii.gz").read_bytes()
    assert not (tmp_path / "a" / "ct_vertebrae.nii.gz").exists()


@pytest.mark.parametrize("num_outputs", [2, 4])
def test_given_mask_is_written_with_numbers(tmp_path, spine, scan, num_outputs):
    mask = np.where(spine.labels > 0, spine.labels + 18, 0).astype(np.uint8)
    given = save_nifti(tmp_path / "mask.nii.gz", mask, affine_of(spine), "PIR")
    result = segment(scan, tmp_path / "ct", num_outputs, vertebrae=str(given))
    assert [r["level"] for r in result["vertebrae"]] == ["T12", "L1", "L2", "L3"]
    vertebrae, fracture = (read_ras(tmp_path / f"ct_{n}.nii.gz") for n in ("vertebrae", "fracture"))
    assert np.array_equal(vertebrae, spine.labels)
    fractured = [r["vertebra"] for r in result["vertebrae"] if r["fractured"]]
    assert np.array_equal(fracture > 0, np.isin(vertebrae, fractured))
    assert fractured == [2, 4]
    assert {f["level"] for f in result["findings"]} == {"L1", "L3"}


def test_given_mask_names_findings_of_voxels(tmp_path, spine, scan):
    mask = np.where(spine.labels > 0, spine.labels + 18, 0).astype(np.uint8)
    given = save_nifti(tmp_path / "mask.nii.gz", mask, affine_of(spine), "PIR")
    result = segment(scan, tmp_path / "ct", post=PostProcessing(decision="voxel"), vertebrae=str(given))
    assert "vertebrae" not in result
    assert {f["level"] for f in result["findings"]} == {"L1", "L3"}


def test_dicom_series_has_a_segmentation_and_a_report(tmp_path, spine):
    if not dicom_seg.available():
        pytest.skip("highdicom is not installed")
    import pydicom

    hu = spine.hu[::-1, ::-1].transpose(2, 1, 0)  # slices, rows to the back, columns to the left
    tags = {"FrameOfReferenceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3.5", "PatientID": "p", "PatientName": "p^q", "StudyID": "1",
            "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyDate": "20200101", "StudyTime": "120000",
            "SeriesNumber": "1", "Manufacturer": "m", "ReferringPhysicianName": "", "PixelSpacing": ["2", "2"]}  # fmt: skip
    write_series(tmp_path / "series", hu, step=np.array([0, 0, 2.0]), **tags)
    result = segment(tmp_path / "series", tmp_path / "out" / "ct")
    assert all("check_hu" in note for note in result["notes"])
    assert [r["fractured"] for r in result["vertebrae"]] == [0, 1, 0, 1]
    assert overlap(read_ras(tmp_path / "out" / "ct_vertebrae.nii.gz"), spine.labels) > 0.95
    segmentation, report = (pydicom.dcmread(tmp_path / "out" / f"ct_{n}.dcm") for n in ("seg", "sr"))
    assert segmentation.Modality == "SEG"
    assert len(segmentation.SegmentSequence) == 4
    assert report.Modality == "SR"

    for name in ("seg", "sr"):  # a series that no DICOM object can refer to replaces it
        assert (tmp_path / "out" / f"ct_{name}.dcm").is_file()
    shutil.rmtree(tmp_path / "series")
    write_series(tmp_path / "series", hu, step=np.array([0, 0, 2.0]), **{**tags, "StudyInstanceUID": None})
    result = segment(tmp_path / "series", tmp_path / "out" / "ct")
    assert [n for n in result["notes"] if n.startswith("ct_seg.dcm was not written: ")]
    assert not any("ct_sr.dcm" in n for n in result["notes"])
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_a_failing_report_is_named_beside_its_segmentation(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise ValueError("no report")

    monkeypatch.setattr(vertebra_files.dicom_seg, "write_vertebra_segmentation", lambda *arguments: None)
    monkeypatch.setattr(vertebra_files.dicom_sr, "write_measurement_report", refuse)
    lines: list[str] = []
    vertebra_files.write_dicom(tmp_path / "ct", SimpleNamespace(), {}, SimpleNamespace(records=[]), "1", lines.append)
    assert lines == ["ct_sr.dcm was not written: no report"]
    (tmp_path / "ct_seg.dcm").write_bytes(b"earlier")
    monkeypatch.setattr(vertebra_files.dicom_seg, "write_vertebra_segmentation", refuse)
    vertebra_files.write_dicom(tmp_path / "ct", SimpleNamespace(), {}, SimpleNamespace(records=[]), "1", lines.append)
    assert lines[1:] == ["ct_seg.dcm was not written: no report"]


def test_preview_has_overlay_and_table_names(tmp_path, scan):
    segment(scan, tmp_path / "ct", outputs=Outputs())
    assert (tmp_path / "ct_overlay.png").stat().st_size > 5000
    assert len(list(tmp_path.glob("ct_*"))) > 3


def test_little_memory_spools_the_scan(tmp_path):
    """A scan finer than the working grid; HU between its voxels are then read from that grid."""
    spine = make_spine(3, spacing=(1.0, 1.0, 1.5), fractured=(2,))
    scan = save_nifti(tmp_path / "ct.nii.gz", spine.hu, affine_of(spine))
    plenty = segment(scan, tmp_path / "a" / "ct")
    header = read_header(scan)
    grid = WorkingGrid.plan(header.shape, header.affine, SPACING)
    peak = plan_memory(header, grid, (64, 64), 8, 0, None, SAMPLE_BYTES, by_vertebra=True).peak
    lines: list[str] = []
    scarce = segment(scan, tmp_path / "b" / "ct", limit=peak - 1, log=lines.append)
    assert any("temporary file" in line for line in lines)
    for name in ("vertebrae", "fracture"):
        assert (tmp_path / "a" / f"ct_{name}.nii.gz").read_bytes() == (tmp_path / "b" / f"ct_{name}.nii.gz").read_bytes()
    same = ("vertebra", "fractured", "volume_ml", "fracture_probability")
    for a, b in zip(plenty["vertebrae"], scarce["vertebrae"], strict=True):
        assert [a[k] for k in same] == [b[k] for k in same]
        assert a["height_middle_mm"] == pytest.approx(b["height_middle_mm"], abs=1.5)
    assert not list((tmp_path / "b").glob(".*"))


def test_failed_write_leaves_no_file(tmp_path, scan, monkeypatch):
    from scripts.io import nifti_writer

    def full(self, index, plane):
        raise OSError(28, "No space left on device", str(tmp_path / "ct_vertebrae.nii.gz"))

    monkeypatch.setattr(nifti_writer.SliceWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        segment(scan, tmp_path / "out" / "ct")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_rows_can_be_written_as_a_table(tmp_path, scan):
    from scripts.core.files import write_table

    rows = segment(scan, tmp_path / "ct", outputs=Outputs(statistics_only=True))["vertebrae"]
    write_table(tmp_path / "vertebrae.csv", rows, VERTEBRA_COLUMNS)
    stored = list(csv.DictReader((tmp_path / "vertebrae.csv").open()))
    assert [r["fractured"] for r in stored] == ["0", "1", "0", "1"]


def test_guessed_levels_of_findings_are_marked(tmp_path):
    tilted = make_spine(
        7, pitch=[6.0, 4.0, 0.0, -4.0, -12.0, -22.0, -58.0], gap=9.0, half_width=22.0, half_depth=17.0, fractured=(3,)
    )
    path = save_nifti(tmp_path / "ct.nii.gz", tilted.hu, affine_of(tilted))
    result = segment(path, tmp_path / "out" / "ct")
    assert [(f["level"], f["levels"]) for f in result["findings"]] == [("L2?", "L2?")]


def test_a_failed_picture_is_a_note(tmp_path, scan, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("no formula")

    monkeypatch.setattr("scripts.inference.case.save_views", fail)
    result = segment(scan, tmp_path / "out" / "ct", outputs=Outputs())
    assert any("a picture of ct was not drawn: no formula" in note for note in result["notes"])
    assert (tmp_path / "out" / "cases" / "ct.json").is_file()
