# SPDX-License-Identifier: Apache-2.0
"""DICOM SR of the vertebrae: read back by highdicom, pydicom and dcmqi, and compared with the rows of the table."""

from __future__ import annotations

import dataclasses
import json
import math

import pydicom
import pytest
from dicom_vertebrae import RECORDS, dcmqi, run, vertebra_series
from pydicom.sr.codedict import codes
from scripts.io import dicom_codes
from scripts.io.dicom_seg import write_segmentation, write_vertebra_segmentation
from scripts.io.dicom_sr import ITEMS, write_measurement_report
from scripts.postprocessing.vertebra_record import VertebraRecord

hd = pytest.importorskip("highdicom", reason="DICOM SR needs the extra `dicom-seg`")
VERSION = "0.6.0+0123abcd"


@pytest.fixture
def written(tmp_path):
    series, planes = vertebra_series(tmp_path / "ct")
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS, VERSION)
    write_measurement_report(tmp_path / "sr.dcm", series, tmp_path / "seg.dcm", RECORDS, VERSION)
    return tmp_path, series


def expected(record: VertebraRecord) -> dict[tuple[str, str | None], float]:
    """Value by name and derivation, from the columns of the table of vertebrae."""
    sd, row = "Standard Deviation", record.row()
    values = {
        **{(f"{n.title()} height of vertebral body", None): row[f"height_{n}_mm"] for n in ("anterior", "middle", "posterior")},
        **{(f"{n.title()} height of vertebral body", sd): row[f"height_{n}_sd_mm"] for n in ("anterior", "middle", "posterior")},
        ("Loss of height against intact neighbours", None): row["loss_from_neighbours"] and row["loss_from_neighbours"] * 100,
        ("Loss of height against own posterior height", None): row["loss_from_posterior"] and row["loss_from_posterior"] * 100,
        ("Larger of the losses of height", sd): row["loss_sd"] and row["loss_sd"] * 100,
        ("Genant grade by measured height", None): row["measured_grade"],
        ("Genant grade by measured height", "Minimum"): row["measured_grade_low"],
        ("Genant grade by measured height", "Maximum"): row["measured_grade_high"],
        ("Fracture probability of the network", None): row["fracture_probability"],
        ("Attenuation of trabecular bone of vertebral body", "Mean"): row["trabecular_hu"],
        ("Attenuation of trabecular bone of vertebral body", sd): row["trabecular_hu_sd"],
        ("Volume", None): row["volume_ml"],
        ("Volume of vertebral body", None): row["body_volume_ml"],
    }
    return {name: pytest.approx(value, abs=1e-9) for name, value in values.items() if value != ""}


def groups_of(path) -> dict[str, object]:
    content = hd.sr.srread(path).content
    return {g.tracking_identifier: g for g in content.get_volumetric_roi_measurement_groups()}


def test_highdicom_reads_the_measurements(written):
    root, _ = written
    groups = groups_of(root / "sr.dcm")
    assert list(groups) == ["vertebra 1 (T11)", "vertebra 2 (T12)", "vertebra 3 (L6?)", "vertebra 5"]
    for record, group in zip(RECORDS, groups.values(), strict=True):
        measured = {(m.name.meaning, m.derivation and m.derivation.meaning): m.value for m in group.get_measurements()}
        assert measured == expected(record)


def test_units_are_those_of_the_columns(written):
    root, _ = written
    units = {m.name.value: m.unit.value for m in groups_of(root / "sr.dcm")["vertebra 2 (T12)"].get_measurements()}
    assert units == {item.name.value: item.unit.value for item in ITEMS}
    assert all(item.unit.value == "mm" for item in ITEMS if item.column.endswith("_mm"))
    assert all(item.unit.value == "cm3" for item in ITEMS if item.column.endswith("_ml"))  # 1 ml


def test_network_and_measured_grade_stay_apart(written):
    root, _ = written
    answers = [
        {e.name.meaning: e.value.meaning for e in g.get_qualitative_evaluations() if hasattr(e, "value")}
        for g in groups_of(root / "sr.dcm").values()
    ]
    decision, grade = "Fracture by decision of the network", "Genant grade by measured height"
    assert [a.get(decision) for a in answers] == ["Absent", "Present", "Absent", None]
    assert [a.get(grade) for a in answers] == ["Normal", "Moderate", "Severe", None]
    assert [a.get("Shape") for a in answers] == [None, "Wedge-shaped", "Biconcave", None]
    assert [a["Whole vertebra is within the scan"] for a in answers] == ["Yes", "Yes", "Yes", "No"]
    source = "Source of the vertebral level"
    assert [a.get(source, "")[:5] for a in answers] == ["Given", "Given", "Guess", ""]


def test_finding_sites_are_the_levels(written):
    root, _ = written
    groups = list(groups_of(root / "sr.dcm").values())
    sites = [g.finding_sites[0].value for g in groups]
    assert [s.meaning for s in sites] == ["T11 vertebra", "T12 vertebra", "Vertebra", "Vertebra"]
    assert sites[1] == codes.cid7603.T12Vertebra
    heights = {m.name.meaning: m.finding_sites[0] for m in groups[1].get_measurements() if m.finding_sites}
    assert {n.split()[0]: s.topographical_modifier.meaning for n, s in heights.items()} == {
        "Anterior": "Anterior",
        "Middle": "Middle",
        "Posterior": "Posterior",
    }
    assert {s.value for s in heights.values()} == {codes.cid7603.T12Vertebra}


def test_references_exist_in_the_segmentation(written):
    root, series = written
    seg = pydicom.dcmread(root / "seg.dcm", stop_before_pixels=True)
    segments = {int(s.SegmentNumber): s for s in seg.SegmentSequence}
    for group in groups_of(root / "sr.dcm").values():
        reference = group.referenced_segment
        assert reference[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
        segment = segments[reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber]
        assert (segment.TrackingUID, segment.TrackingID) == (group.tracking_uid, group.tracking_identifier)
        assert reference.source_series_for_segmentation.value == series.headers[0].SeriesInstanceUID
    report = pydicom.dcmread(root / "sr.dcm")
    evidence = {
        instance.ReferencedSOPInstanceUID
        for sequence in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(sequence, [])
        for s in study.ReferencedSeriesSequence
        for instance in s.ReferencedSOPSequence
    }
    assert evidence >= {seg.SOPInstanceUID, *(h.SOPInstanceUID for h in series.headers[2:13])}
    assert evidence <= {seg.SOPInstanceUID, *(h.SOPInstanceUID for h in series.headers)}


def test_the_report_is_for_research_and_unverified(written):
    root, series = written
    report, source = pydicom.dcmread(root / "sr.dcm"), pydicom.dcmread(series.files[0], stop_before_pixels=True)
    assert "RESEARCH USE ONLY" in report.SeriesDescription
    comment = report.ContentSequence[-1]
    assert comment.ConceptNameCodeSequence[0].CodeMeaning == "Comment"
    assert comment.TextValue.startswith("RESEARCH USE ONLY")
    assert (report.VerificationFlag, report.PreliminaryFlag, report.Modality) == ("UNVERIFIED", "PRELIMINARY", "SR")
    for name in ("PatientID", "PatientName", "PatientSex", "StudyInstanceUID", "StudyDate"):
        assert report.get(name) == source.get(name)
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    scheme = report.CodingSchemeIdentificationSequence[0]
    assert scheme.CodingSchemeDesignator == dicom_codes.PRIVATE_SCHEME
    assert scheme.CodingSchemeResponsibleOrganization


def test_observer_is_the_program_and_its_version(written):
    root, _ = written
    context = hd.sr.srread(root / "sr.dcm").content.get_observer_contexts()[0]
    assert context.observer_type == codes.DCM.Device
    device = context.observer_identifying_attributes
    assert device.name.startswith("spine_fracture_ct_segmentation")
    assert device.serial_number == VERSION
    algorithm = {
        i.name.meaning: i.value
        for i in groups_of(root / "sr.dcm")["vertebra 5"][0].ContentSequence
        if i.name.meaning[:9] == "Algorithm"
    }
    assert algorithm["Algorithm Version"] == VERSION


def test_dcmqi_reads_the_measurements(written):
    root, series = written
    program = dcmqi("tid1500reader")
    run(program, "--inputDICOM", root / "sr.dcm", "--outputMetadata", root / "sr.json")
    document = json.loads((root / "sr.json").read_text(encoding="utf-8"))
    assert document["VerificationFlag"] == "UNVERIFIED"
    assert len(document["Measurements"]) == len(RECORDS)
    for n, (record, group) in enumerate(zip(RECORDS, document["Measurements"], strict=True), 1):
        measured = {
            (item["quantity"]["CodeMeaning"], item.get("derivationModifier", {}).get("CodeMeaning")): float(item["value"])
            for item in group["measurementItems"]
        }
        assert measured == expected(record)
        assert group["ReferencedSegment"] == n
        assert group["segmentationSOPInstanceUID"] == pydicom.dcmread(root / "seg.dcm", stop_before_pixels=True).SOPInstanceUID
        assert group["SourceSeriesForImageSegmentation"] == series.headers[0].SeriesInstanceUID
        assert group["FindingSite"]["CodeMeaning"] == dicom_codes.level_concept(record.level).meaning
        comments = [e["conceptValue"] for e in group["qualitativeEvaluations"] if e["conceptCode"]["CodeMeaning"] == "Comment"]
        assert comments == ([record.note] if record.note else [])


def test_a_vertebra_without_pixels_has_a_group_without_region(tmp_path):
    series, planes = vertebra_series(tmp_path / "ct")
    records = [*RECORDS, VertebraRecord(9, heights_mm=(20.0, 21.0, math.inf), level="Thé\\1", note="Maß\n" * 2000)]
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, records, "")
    write_measurement_report(tmp_path / "sr.dcm", series, tmp_path / "seg.dcm", records[::-1], "ü" * 90)
    content = hd.sr.srread(tmp_path / "sr.dcm").content
    assert len(content.get_volumetric_roi_measurement_groups()) == len(RECORDS)
    (group,) = content.get_image_measurement_groups()
    assert group.tracking_identifier == "vertebra 9 (Th?/1)"
    assert [m.value for m in group.get_measurements()] == [20.0, 21.0]


def test_a_series_without_patient_data(tmp_path):
    absent = dict.fromkeys(("PatientName", "PatientID", "PatientSex", "StudyDate", "SeriesNumber"))
    series, planes = vertebra_series(tmp_path / "ct", **absent)
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS, VERSION)
    write_measurement_report(tmp_path / "sr.dcm", series, tmp_path / "seg.dcm", RECORDS, VERSION)
    assert pydicom.dcmread(tmp_path / "sr.dcm").PatientID == ""
    assert len(groups_of(tmp_path / "sr.dcm")) == len(RECORDS)


def test_bad_input_writes_nothing(written):
    root, series = written
    out = root / "new.dcm"
    with pytest.raises(ValueError, match="there is no vertebra"):
        write_measurement_report(out, series, root / "seg.dcm", [], VERSION)
    (root / "text.dcm").write_text("no DICOM")
    with pytest.raises(ValueError, match=r"text.dcm: is no DICOM file"):
        write_measurement_report(out, series, root / "text.dcm", RECORDS, VERSION)
    with pytest.raises(ValueError, match="is no DICOM-SEG of the series"):
        write_measurement_report(out, series, series.files[0], RECORDS, VERSION)
    other, planes = vertebra_series(root / "other", SeriesInstanceUID="1.2.826.0.1.3680043.8.498.77")
    with pytest.raises(ValueError, match="is no DICOM-SEG of the series"):
        write_measurement_report(out, other, root / "seg.dcm", RECORDS, VERSION)
    findings = [{"finding": n, "level": ""} for n in (1, 2, 3, 5)]
    write_segmentation(root / "findings.dcm", other, planes, findings, VERSION)
    with pytest.raises(ValueError, match="contains no vertebra"):
        write_measurement_report(out, other, root / "findings.dcm", RECORDS, VERSION)
    with pytest.raises(FileNotFoundError):
        write_measurement_report(out, series, root / "absent.dcm", RECORDS, VERSION)
    assert not out.exists()
    assert not list(root.glob(".*"))


def test_codes_are_those_of_the_standard():
    from pydicom.sr import _concepts_dict

    meanings: dict[tuple[str, str], set[str]] = {}
    for scheme, concepts in _concepts_dict.concepts.items():
        for values in concepts.values():
            for value, (meaning, _) in values.items():
                meanings.setdefault((scheme, value), set()).add(meaning)
    concepts = [c for c in vars(dicom_codes).values() if isinstance(c, dicom_codes.Concept)]
    for table in (
        dicom_codes.LEVEL_CONCEPTS,
        dicom_codes.GRADE_CONCEPTS,
        dicom_codes.SHAPE_CONCEPTS,
        dicom_codes.LEVEL_SOURCE_CONCEPTS,
    ):
        concepts += table.values()
    for concept in concepts:
        assert len(concept.value) <= 16
        assert len(concept.meaning) <= 64
        # The fracture as a morphology is SNOMED CT's own example of an expression (72704001 |fracture|), but in no group of DICOM.
        if concept.scheme != dicom_codes.PRIVATE_SCHEME and concept != dicom_codes.FRACTURE:
            assert concept.meaning in meanings[concept.scheme, concept.value], concept
    private = [c for c in concepts if c.scheme == dicom_codes.PRIVATE_SCHEME]
    assert len({c.value for c in private}) == len({c.meaning for c in private}) == len(set(private))


def test_every_level_of_the_context_group_has_its_code():
    group = codes.cid7603
    standard = {getattr(group, name).meaning.split()[0]: getattr(group, name).value for name in group.dir()}
    ours = {level: c.value for level, c in dicom_codes.LEVEL_CONCEPTS.items() if level != "S1"}
    assert ours == standard
    by_code = {c.value: level for level, c in dicom_codes.LEVEL_CONCEPTS.items()}
    assert all(by_code[dicom_codes.level_concept(level).value] == level for level in dicom_codes.LEVEL_CONCEPTS)
    assert {dicom_codes.level_concept(level) for level in ("L6", "T13", "", "?")} == {dicom_codes.VERTEBRA}


def test_columns_of_measurements_exist():
    assert {item.column for item in ITEMS} <= set(RECORDS[0].row())
    fields = {f.name for f in dataclasses.fields(VertebraRecord)}
    assert {"vertebra", "level", "level_source", "fractured"} <= fields
