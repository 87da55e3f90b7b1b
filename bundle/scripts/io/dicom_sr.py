# SPDX-License-Identifier: Apache-2.0
"""Measurements of the vertebrae of a CT series as a DICOM Structured Report (TID 1500) that refers to the segments of a DICOM-SEG.

One measurement group (TID 1411) per vertebra. The measured grade and the network's probability and decision are items of their own
and never merged. A value that is unknown has no item; the comment of the vertebra holds the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..core.files import atomic_write
from . import dicom_codes as c
from .dicom_seg import SegmentedVertebra, tracking_id, vertebra_of_segment
from .dicom_series import DicomSeries
from .dicom_source import DISCLAIMER, MANUFACTURER, MODEL, dicom_text, instance_arguments, read_sources, version_text

SERIES_NUMBER_OFFSET = 9100
STATEMENT = f"{DISCLAIMER}: not for diagnosis. Automatic measurements, not verified by a radiologist."
COMMENT_LENGTH = 1024


class MeasuredVertebra(SegmentedVertebra, Protocol):
    """Attributes of a vertebra that the report shows."""

    def row(self) -> dict[str, Any]:
        """Cells of the vertebra in the table of vertebrae, by column; "" is unknown."""


class _Item(NamedTuple):
    """Numeric item of a column of the table of vertebrae."""

    column: str
    name: c.Concept
    unit: c.Concept
    derivation: c.Concept | None = None
    zone: c.Concept | None = None


_SD, _MEAN = c.STANDARD_DEVIATION, c.MEAN
ITEMS = (
    _Item("height_anterior_mm", c.ANTERIOR_HEIGHT, c.MILLIMETER, zone=c.ANTERIOR),
    _Item("height_anterior_sd_mm", c.ANTERIOR_HEIGHT, c.MILLIMETER, _SD, c.ANTERIOR),
    _Item("height_middle_mm", c.MIDDLE_HEIGHT, c.MILLIMETER, zone=c.MIDDLE),
    _Item("height_middle_sd_mm", c.MIDDLE_HEIGHT, c.MILLIMETER, _SD, c.MIDDLE),
    _Item("height_posterior_mm", c.POSTERIOR_HEIGHT, c.MILLIMETER, zone=c.POSTERIOR),
    _Item("height_posterior_sd_mm", c.POSTERIOR_HEIGHT, c.MILLIMETER, _SD, c.POSTERIOR),
    _Item("loss_from_neighbours", c.LOSS_FROM_NEIGHBOURS, c.PERCENT),
    _Item("loss_from_posterior", c.LOSS_FROM_POSTERIOR, c.PERCENT),
    _Item("loss_sd", c.LARGER_LOSS, c.PERCENT, _SD),
    _Item("measured_grade", c.GENANT_GRADE, c.NO_UNITS),
    _Item("measured_grade_low", c.GENANT_GRADE, c.NO_UNITS, c.MINIMUM),
    _Item("measured_grade_high", c.GENANT_GRADE, c.NO_UNITS, c.MAXIMUM),
    _Item("fracture_probability", c.FRACTURE_PROBABILITY, c.NO_UNITS),
    _Item("trabecular_hu", c.TRABECULAR_ATTENUATION, c.HOUNSFIELD_UNIT, _MEAN),
    _Item("trabecular_hu_sd", c.TRABECULAR_ATTENUATION, c.HOUNSFIELD_UNIT, _SD),
    _Item("volume_ml", c.VOLUME, c.CUBIC_CENTIMETER),
    _Item("body_volume_ml", c.BODY_VOLUME, c.CUBIC_CENTIMETER),
)


def _measurements(row: Mapping[str, Any], level: c.Concept) -> list[Any]:
    from highdicom.sr import FindingSite, Measurement

    measurements = []
    for item in ITEMS:
        value = row[item.column]
        if value == "" or not math.isfinite(value):
            continue
        site = None if item.zone is None else [FindingSite(level.code(), topographical_modifier=item.zone.code())]
        measurements.append(
            Measurement(
                name=item.name.code(),
                value=round(100 * value, 1) if item.unit is c.PERCENT else value,
                unit=item.unit.code(),
                derivation=None if item.derivation is None else item.derivation.code(),
                finding_sites=site,
            )
        )
    return measurements


def _evaluations(row: Mapping[str, Any]) -> list[Any]:
    """Qualitative evaluations: decision of the network, measured grade and shape, extent in the scan, source of the level."""
    from highdicom.sr import QualitativeEvaluation

    known = row["fracture_probability"] != ""
    pairs = (
        (c.NETWORK_DECISION, (c.PRESENT if row["fractured"] else c.ABSENT) if known else None),
        (c.GENANT_GRADE, c.GRADE_CONCEPTS.get(row["measured_grade"])),
        (c.SHAPE, c.SHAPE_CONCEPTS.get(row["measured_shape"])),
        (c.WHOLE, c.YES if row["complete"] else c.NO),
        (c.LEVEL_SOURCE, c.LEVEL_SOURCE_CONCEPTS.get(row["level_source"])),
    )
    return [QualitativeEvaluation(name.code(), value.code()) for name, value in pairs if value is not None]


def _comment(text: str) -> Any:
    from highdicom.sr import RelationshipTypeValues, TextContentItem

    return TextContentItem(c.COMMENT.code(), dicom_text(text, COMMENT_LENGTH), RelationshipTypeValues.CONTAINS)


def _group(record: MeasuredVertebra, segmentation: Any, segment: Any | None, series_uid: str, version: str) -> Any:
    """Measurement group of a vertebra; of TID 1501, without a region, where the vertebra has no segment."""
    import highdicom as hd
    from highdicom import sr

    row, level = record.row(), c.level_concept(record.level)
    arguments: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=hd.UID() if segment is None else segment.TrackingUID, identifier=tracking_id(record)
        ),
        "finding_type": c.VERTEBRA.code(),
        "finding_category": c.ANATOMICAL_STRUCTURE.code(),
        "finding_sites": [sr.FindingSite(level.code())],
        "algorithm_id": sr.AlgorithmIdentification(name=MANUFACTURER, version=version_text(version), parameters=[DISCLAIMER]),
        "measurements": _measurements(row, level),
        "qualitative_evaluations": _evaluations(row),
    }
    group: Any
    if segment is None:
        group = sr.MeasurementsAndQualitativeEvaluations(**arguments)
    else:
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=int(segment.SegmentNumber),
                source_series=sr.SourceSeriesForSegmentation(series_uid),
            ),
            **arguments,
        )
    if row["note"]:
        group[0].ContentSequence.append(_comment(str(row["note"])))
    return group


def _observation_context(version: str) -> Any:
    """Observer of the report: the program, a device whose UID is one per version."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[MANUFACTURER, version]),
        name=f"{MANUFACTURER}, {DISCLAIMER}",
        manufacturer_name=MANUFACTURER,
        model_name=MODEL,
        serial_number=version_text(version),
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))


def _read_segments(seg_path: Path, series: DicomSeries, series_uid: str) -> tuple[Any, dict[int | None, Any]]:
    """DICOM-SEG without its pixels, and its segments by number of the vertebra."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        segmentation = pydicom.dcmread(seg_path, stop_before_pixels=True)
    except InvalidDicomError:
        raise ValueError(f"{seg_path}: is no DICOM file; must be the DICOM-SEG of the vertebrae") from None
    if series_uid not in [str(item.SeriesInstanceUID) for item in segmentation.get("ReferencedSeriesSequence", [])]:
        raise ValueError(f"{seg_path}: is no DICOM-SEG of the series in {series.folder}; write the DICOM-SEG of that series first")
    segments = {vertebra_of_segment(item): item for item in segmentation.SegmentSequence}
    if set(segments) <= {None}:
        raise ValueError(f"{seg_path}: contains no vertebra; must be the DICOM-SEG of the vertebrae")
    return segmentation, segments


def _evidence(source: Any, segmentation: Any) -> list[Any]:
    """Objects that the report refers to: the first source slice, from which patient and study are copied, the SEG, other slices."""
    from pydicom import Dataset

    others = []
    for item in segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence:
        if item.ReferencedSOPInstanceUID == source.SOPInstanceUID:
            continue
        other = Dataset()
        other.StudyInstanceUID, other.SeriesInstanceUID = source.StudyInstanceUID, source.SeriesInstanceUID
        other.SOPClassUID, other.SOPInstanceUID = item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID
        others.append(other)
    return [source, segmentation, *others]


def write_measurement_report(
    path: Path, series: DicomSeries, seg_path: Path, records: Sequence[MeasuredVertebra], version: str
) -> None:
    """Write a Comprehensive 3D SR with a measurement group per vertebra.

    Args:
        path: file to write.
        series: source series.
        seg_path: DICOM-SEG of ``write_vertebra_segmentation`` of the same vertebrae.
        records: rows of the vertebrae.
        version: version of this program with its weights.

    Raises:
        ValueError: when there is no vertebra, the DICOM-SEG is of another series, or the source lacks an attribute that a report
            must reference.
    """
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    if not records:
        raise ValueError(f"{path}: not written, as there is no vertebra")
    source = read_sources(series, [0])[0]
    segmentation, segments = _read_segments(seg_path, series, str(source.SeriesInstanceUID))
    groups = [
        _group(record, segmentation, segments.get(record.vertebra), source.SeriesInstanceUID, version)
        for record in sorted(records, key=lambda r: r.vertebra)
    ]
    content = hd.sr.MeasurementReport(
        observation_context=_observation_context(version), procedure_reported=c.CT.code(), imaging_measurements=groups
    )
    content[0].ContentSequence.append(_comment(STATEMENT))
    scheme = CodingSchemeIdentificationItem(c.PRIVATE_SCHEME, name=c.PRIVATE_SCHEME_NAME, responsible_organization=MANUFACTURER)
    report = hd.sr.Comprehensive3DSR(
        evidence=_evidence(source, segmentation),
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[scheme],
        **instance_arguments(source, version, "Vertebral measurements", SERIES_NUMBER_OFFSET),
    )
    with atomic_write(path) as temporary:
        report.save_as(temporary)
