# SPDX-License-Identifier: Apache-2.0
"""Headers of the source that derived DICOM objects repeat: character sets and odd dates are repaired with a note."""

from __future__ import annotations

import pytest
from dicom_vertebrae import RECORDS, vertebra_series
from scripts.io.dicom_seg import write_vertebra_segmentation
from scripts.io.dicom_source import repair
from scripts.io.dicom_sr import write_measurement_report

pydicom = pytest.importorskip("pydicom")
JAPANESE = "A^B=\u5c71^\u592a"


def rewrite(series, edit) -> None:
    for file in series.files:
        header = pydicom.dcmread(file)
        edit(header)
        header.save_as(file)


def stored(header, name: str, value: str) -> None:
    """Set a value that DICOM does not allow."""
    tag = pydicom.datadict.tag_for_keyword(name)
    vr = pydicom.datadict.dictionary_VR(tag)
    header[tag] = pydicom.dataelem.DataElement(tag, vr, value, validation_mode=pydicom.config.IGNORE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("charset", "name"),
    [(["", "ISO 2022 IR 87"], JAPANESE), ("", "A^B"), ("ISO_IR 999", "A^B"), ("ISO_IR 192", JAPANESE), (None, "A^B")],
)
def test_names_survive_any_character_set(tmp_path, charset, name):
    pytest.importorskip("highdicom")
    series, planes = vertebra_series(tmp_path / "ct")

    def edit(header):
        if charset is not None:
            header.SpecificCharacterSet = charset
        header.PatientName = name

    rewrite(series, edit)
    notes: list[str] = []
    seg, report = tmp_path / "seg.dcm", tmp_path / "sr.dcm"
    write_vertebra_segmentation(seg, series, planes, RECORDS, "1", notes.append)
    write_measurement_report(report, series, seg, RECORDS, "1")
    for path in (seg, report):
        assert str(pydicom.dcmread(path).PatientName) == name
    assert len(notes) == (charset not in (None, "ISO_IR 192"))
    assert not any(name in note for note in notes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PatientBirthDate", "1950.1.1", "19500101"),
        ("PatientBirthDate", "1950-12-31", "19501231"),
        ("PatientBirthDate", "1950.13.1", ""),
        ("PatientBirthDate", "01/02/1950", ""),
        ("PatientBirthDate", "unknown", ""),
        ("PatientBirthDate", "19500101", "19500101"),
        ("StudyTime", "12:30:01", "123001"),
        ("StudyTime", "99", ""),
        ("StudyTime", "123001.5", "123001.5"),
    ],
)
def test_dates_and_times_are_rewritten_or_left_out(tmp_path, name, value, expected):
    header = pydicom.Dataset()
    stored(header, name, value)
    lines = repair(header)
    assert str(header.get(name) or "") == expected
    assert len(lines) == (value != expected)
    assert repair(header) == []
    if lines:
        assert value not in lines[0]


@pytest.mark.filterwarnings("ignore")
def test_a_series_with_an_odd_birth_date_has_its_files(tmp_path):
    pytest.importorskip("highdicom")
    series, planes = vertebra_series(tmp_path / "ct")
    rewrite(series, lambda header: stored(header, "PatientBirthDate", "1950.1.1"))
    notes: list[str] = []
    write_vertebra_segmentation(tmp_path / "seg.dcm", series, planes, RECORDS, "1", notes.append)
    write_measurement_report(tmp_path / "sr.dcm", series, tmp_path / "seg.dcm", RECORDS, "1")
    assert str(pydicom.dcmread(tmp_path / "sr.dcm").PatientBirthDate) == "19500101"
    assert [note.startswith(f"{series.folder}: PatientBirthDate") for note in notes] == [True]
