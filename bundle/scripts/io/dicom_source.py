# SPDX-License-Identifier: Apache-2.0
"""Parts that the DICOM objects derived from a CT series share: headers of the source, equipment, text that DICOM can hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
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


def available() -> bool:
    """Return True when highdicom, which writes these objects, is installed."""
    return importlib.util.find_spec("highdicom") is not None


def dicom_text(text: str, length: int = 64) -> str:
    """Text that every DICOM reader decodes: ASCII without separators of values and control characters, cut to ``length``."""
    kept = "".join(c if c.isprintable() else " " for c in text.replace("\\", "/"))
    return kept.encode("ascii", "replace").decode()[:length].strip()


def read_sources(series: DicomSeries, slices: Sequence[int]) -> list[Any]:
    """Headers of slices (index in order of position) with the attributes that a derived object must repeat.

    Raises:
        ValueError: when the series lacks an identifier that a derived object must reference, or repeats one.
    """
    import pydicom

    if series.multiframe is not None:
        raise ValueError(f"{series.folder}: is an enhanced CT, which no DICOM-SEG is written for; use the masks in NIfTI")
    if series.straight is not None:
        raise ValueError(
            f"{series.folder}: its slices were resampled, and a DICOM-SEG cannot reference the result; use the masks in NIfTI"
        )
    sources = [pydicom.dcmread(series.files[k], stop_before_pixels=True) for k in slices]
    for k, source in zip(slices, sources, strict=True):
        missing = [name for name in REQUIRED if not source.get(name)]
        if missing:
            raise ValueError(
                f"{series.files[k]}: lacks {', '.join(missing)}, which a DICOM-SEG must reference; export the series again"
            )
        for name in EMPTY_IF_ABSENT:
            if name not in source:
                setattr(source, name, "")
        if source.PatientSex not in ("M", "F", "O"):  # highdicom refuses other values, of animals for instance
            source.PatientSex = ""
        if not source.get("SliceThickness"):  # highdicom repeats it; the distance between the slices is a substitute
            source.SliceThickness = f"{spacing_of(series.affine)[2]:.4f}"
    if len({source.SOPInstanceUID for source in sources}) < len(sources):
        raise ValueError(
            f"{series.folder}: several slices have one SOPInstanceUID, which a DICOM-SEG must reference; export the series again"
        )
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
