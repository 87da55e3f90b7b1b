# SPDX-License-Identifier: Apache-2.0
"""Parts that the DICOM objects derived from a CT series share: headers of the source, equipment, text that DICOM can hold."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Callable, Sequence
from datetime import date, time
from typing import Any

from ..core.geometry import spacing_of
from .dicom_codes import ARTIFICIAL_INTELLIGENCE
from .dicom_series import DicomSeries

DISCLAIMER = "RESEARCH USE ONLY"
MANUFACTURER = "spine_fracture_ct_segmentation"
MODEL = "MSFFNet"
NOT_INSTALLED = "highdicom is not installed; pip install highdicom, which needs pydicom 3 or newer"
REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID")
# Attributes that every object must hold, if only empty (type 2); anonymised series may lack them.
EMPTY_IF_ABSENT = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip

DATES_AND_TIMES = ("PatientBirthDate", "StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime",
                   "ContentDate", "ContentTime")  # fmt: skip
UTF_8 = "ISO_IR 192"
# Single values that highdicom accepts.
CHARACTER_SETS = (
    UTF_8, "ISO_IR 13", "ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 126", "ISO_IR 127", "ISO_IR 138",
    "ISO_IR 144", "ISO_IR 148", "ISO_IR 166", "GB18030", "GBK",
)  # fmt: skip


def available() -> bool:
    """Return True when highdicom, which writes these objects, is installed."""
    return importlib.util.find_spec("highdicom") is not None


def dicom_text(text: str, length: int = 64) -> str:
    """Text that every DICOM reader decodes: ASCII without separators of values and control characters, cut to ``length``."""
    kept = "".join(c if c.isprintable() else " " for c in text.replace("\\", "/"))
    return kept.encode("ascii", "replace").decode()[:length].strip()


def _normalised(text: str, representation: str) -> str:
    """Date (YYYYMMDD) or time (HHMMSS) of a text such as 1950.1.1 or 12:30:01, "" for one that is neither."""
    try:
        if representation == "DA":
            found = re.fullmatch(r"(\d{4})[-./ ](\d{1,2})[-./ ](\d{1,2})", text) or re.fullmatch(r"(\d{4})(\d\d)(\d\d)", text)
            return "" if found is None else date(*map(int, found.groups())).strftime("%Y%m%d")
        found = re.fullmatch(r"(\d\d):(\d\d)(?::(\d\d)(?:\.\d*)?)?", text)
        return "" if found is None else time(int(found[1]), int(found[2]), int(found[3] or 0)).strftime("%H%M%S")
    except ValueError:  # such as month 13
        return ""


def repair(source: Any) -> list[str]:
    """Replace values of a header that DICOM does not allow and that no derived object can repeat.

    Dates and times are rewritten or left empty, and text of any but one plain character set becomes UTF-8.

    Args:
        source: header of a slice, changed in place.

    Returns:
        One line for each attribute, without its value, which may identify the patient.
    """
    from pydicom.valuerep import DA, TM

    lines = []
    for name in DATES_AND_TIMES:
        representation, kind = ("DA", DA) if name.endswith("Date") else ("TM", TM)
        item = source.get_item(name)
        value = "" if item is None or item.value is None else item.value
        text = (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")
        try:
            kind(text) if text else None
            strict = not text or (text.replace(".", "").isdigit() and not (kind is DA and "." in text))
        except (ValueError, TypeError):
            strict = False
        if not strict:
            setattr(source, name, new := _normalised(text, representation))
            lines.append(f"{name} is no DICOM {'date' if kind is DA else 'time'} and was {'rewritten' if new else 'left out'}")
    if "SpecificCharacterSet" in source and source.SpecificCharacterSet not in (None, *CHARACTER_SETS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of character sets that it does not have
            source.decode()
        for element in source:
            if element.VR == "PN" and element.value:
                element.value = [str(n) for n in element.value] if element.VM > 1 else str(element.value)
        source.SpecificCharacterSet = UTF_8
        lines.append("SpecificCharacterSet is blank, unknown or of several values; text was written in UTF-8")
    return lines


def _complete_measures(source: Any, distance: float, frame: int) -> None:
    """Share the pixel measures of an enhanced CT, where each frame repeats them, and complete their slice thickness (mm).

    Args:
        source: header of the file, changed in place.
        distance: distance of the slices in mm.
        frame: index of a frame of the series, no localizer.
    """
    shared = source.SharedFunctionalGroupsSequence[0] if source.get("SharedFunctionalGroupsSequence") else None
    if shared is None:
        return
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        first = source.PerFrameFunctionalGroupsSequence[frame]
        if not shared.get(name) and first.get(name):  # equal in all frames, as checked when the series was read
            setattr(shared, name, first.get(name))
    measures = shared.get("PixelMeasuresSequence")
    if measures and not measures[0].get("SliceThickness"):
        measures[0].SliceThickness = f"{distance:.4f}"


def read_sources(series: DicomSeries, slices: Sequence[int], note: Callable[[str], None] | None = None) -> list[Any]:
    """Headers of slices (index in order of position) with the attributes that a derived object must repeat.

    An enhanced CT is one header, of all its frames.

    Args:
        series: source series.
        slices: slices that are read.
        note: called with a line for each kind of value that was repaired.

    Raises:
        ValueError: when the series lacks an identifier that a derived object must reference, or repeats one.
    """
    import pydicom

    repaired: dict[str, None] = {}
    files = [series.files[k] for k in slices] if series.multiframe is None else [series.multiframe]
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for file, source in zip(files, sources, strict=True):
        missing = [name for name in REQUIRED if not source.get(name)]
        if missing:
            raise ValueError(f"{file}: lacks {', '.join(missing)}, which a DICOM-SEG must reference; export the series again")
        repaired.update(dict.fromkeys(repair(source)))
        for name in EMPTY_IF_ABSENT:
            if name not in source:
                setattr(source, name, "")
        if source.PatientSex not in ("M", "F", "O"):  # highdicom refuses other values, of animals for instance
            source.PatientSex = ""
        if series.multiframe is not None:
            _complete_measures(source, float(spacing_of(series.affine)[2]), int(series.headers[0].InstanceNumber) - 1)
        elif not source.get("SliceThickness"):  # highdicom repeats it; the distance between the slices is a substitute
            source.SliceThickness = f"{spacing_of(series.affine)[2]:.4f}"
    if len({source.SOPInstanceUID for source in sources}) < len(sources):
        raise ValueError(
            f"{series.folder}: several slices have one SOPInstanceUID, which a DICOM-SEG must reference; export the series again"
        )
    for line in repaired if note is not None else ():
        note(f"{series.folder}: {line} in the DICOM files of the results")  # type: ignore[misc]
    return sources


def algorithm_of(version: str) -> Any:
    """Identification of the algorithm, for segments."""
    import highdicom as hd

    return hd.AlgorithmIdentificationSequence(
        name=MANUFACTURER, version=version_text(version), family=ARTIFICIAL_INTELLIGENCE.code(), source=MANUFACTURER
    )


def version_text(version: str) -> str:
    """Version as DICOM text; an attribute that must not be empty."""
    return dicom_text(version) or "unknown"


def instance_arguments(source: Any, version: str, series_description: str, series_number_offset: int) -> dict[str, Any]:
    """Arguments of highdicom for one new object in a series of its own, in the study of ``source``."""
    import highdicom as hd

    return {
        "series_instance_uid": hd.UID(),
        "series_number": max(int(source.get("SeriesNumber", 0) or 0), 0) + series_number_offset,
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL,
        "software_versions": version_text(version),
        "device_serial_number": "0",
        "series_description": f"{series_description}, {DISCLAIMER}",
    }
