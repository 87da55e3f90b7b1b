# SPDX-License-Identifier: Apache-2.0
"""Vertebrae or findings of a CT series as a DICOM Segmentation that references its source slices.

Each vertebra is one segment, and no pixel is in two. A fracture is a modifier of the segment's property type, with a label and a
colour of its own, instead of a second segment on the same pixels: viewers that hold a label map (OHIF 3, VolView) refuse or hide
overlapping segments, and highdicom would need one volume per segment in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_write
from .dicom_codes import ABNORMAL_STRUCTURE, ANATOMICAL_STRUCTURE, FRACTURE, level_concept
from .dicom_series import DicomSeries
from .dicom_source import DISCLAIMER, NOT_INSTALLED, algorithm_of, available, dicom_text, instance_arguments, read_sources

__all__ = ["NOT_INSTALLED", "available", "write_segmentation", "write_vertebra_segmentation"]

SERIES_NUMBER_OFFSET = 9000
# Memory of writing beside the planes, per pixel of the slices with vertebrae: labels, highdicom's copy of them, and twice the bits
# of up to four segments a slice. Measured for 20 vertebrae on 300 slices of 512 x 512 pixels: 2.6 bytes at 2.9 segments a slice.
WRITE_BYTES_PER_PIXEL = 3
# CIELab of Okabe and Ito's colours for colour-blind readers: two blues in turn, so that neighbours differ, and vermilion.
INTACT_COLOURS = ((69.8, -12.0, -34.8), (46.0, -2.7, -41.4))
FRACTURE_COLOUR = (54.2, 43.3, 63.3)

Note = Callable[[str], None] | None


class SegmentedVertebra(Protocol):
    """Attributes of a vertebra that its segment shows."""

    vertebra: int
    level: str
    level_source: str
    fractured: bool

    @property
    def name(self) -> str:
        """Name for readers, such as "T12"."""


def tracking_id(record: SegmentedVertebra) -> str:
    """Identifier of a vertebra in the segmentation and the report, such as "vertebra 3 (T12)"."""
    return dicom_text(f"vertebra {record.vertebra}" + (f" ({record.name})" if record.level else ""))


def vertebra_of_segment(segment: Any) -> int | None:
    """Number of the vertebra of an item of SegmentSequence, by its tracking identifier."""
    match = re.match(r"vertebra (\d+)\b", str(segment.get("TrackingID", "")))
    return int(match[1]) if match else None


def _labels(
    series: DicomSeries, planes: Mapping[int, NDArray], numbers: Sequence[int], path: Path
) -> tuple[list[int], list[int], NDArray]:
    """Segment number, 1 to n, of every pixel of the stored slices.

    Args:
        series: source series.
        planes: number at every pixel (rows, columns), by slice.
        numbers: numbers that may occur.
        path: file that is written, for messages.

    Returns:
        Slices with any number, numbers that occur, and labels (slice, row, column): 0, or 1 + the place in these numbers.

    Raises:
        ValueError: when a slice is outside the series or has another size, or a number has no row.
    """
    columns, rows = series.shape[:2] if series.straight is None else series.straight.stored[:2]
    if series.straight is not None:
        planes = series.straight.stored_planes(planes)
    voxels = np.zeros(max(numbers, default=0) + 1, np.int64)
    slices = []
    for k in sorted(planes):
        if not 0 <= k < len(series.files) or planes[k].shape != (rows, columns):
            raise ValueError(
                f"{path}: slice {k} of {planes[k].shape} pixels; must be one of {len(series.files)} slices of {(rows, columns)}"
            )
        counts = np.bincount(planes[k].ravel())
        unknown = [int(n) for n in np.flatnonzero(counts) if n and int(n) not in numbers]
        if unknown:
            raise ValueError(f"{path}: slice {k} contains the number {unknown[0]}, which has no row; every number needs one")
        if counts[1:].any():
            slices.append(k)
            voxels[: len(counts)] += counts
    present = [n for n in sorted(numbers) if voxels[n]]
    dtype = np.uint8 if len(present) < 256 else np.uint16
    lookup = np.zeros(len(voxels), dtype)
    lookup[present] = np.arange(1, len(present) + 1)
    labels = np.empty((len(slices), rows, columns), dtype)
    for n, k in enumerate(slices):  # slice by slice, as the planes of a scan may be wider than the labels
        np.take(lookup, planes[k], out=labels[n])
    return slices, present, labels


def _save(
    path: Path,
    series: DicomSeries,
    slices: Sequence[int],
    labels: NDArray,
    segments: list[Any],
    version: str,
    content: str,
    note: Note = None,
) -> None:
    """Write segments; ``content`` is their name in the plural."""
    from highdicom.seg import Segmentation, SegmentationTypeValues

    sources = read_sources(series, slices, note)
    if series.multiframe is not None:  # frames of one file are referred to by their order in it
        frames = np.zeros((int(sources[0].NumberOfFrames), *labels.shape[1:]), labels.dtype)
        for k, plane in zip(slices, labels, strict=True):
            frames[int(series.headers[k].InstanceNumber) - 1] = plane
        labels = frames
    segmentation = Segmentation(
        source_images=sources,
        pixel_array=labels,
        segmentation_type=SegmentationTypeValues.BINARY,  # label maps are a SOP class that few viewers read
        segment_descriptions=segments,
        content_label=content.split()[-1].upper(),
        content_description=f"Automatic, {DISCLAIMER}",
        omit_empty_frames=True,
        **instance_arguments(sources[0], version, content, SERIES_NUMBER_OFFSET),
    )
    segmentation.ContentCreatorName = ""  # must be present; there is no person
    with atomic_write(path) as temporary:
        segmentation.save_as(temporary)


def write_vertebra_segmentation(
    path: Path,
    series: DicomSeries,
    planes: Mapping[int, NDArray],
    records: Sequence[SegmentedVertebra],
    version: str,
    note: Note = None,
) -> None:
    """Write one DICOM-SEG with a segment per vertebra, from head to feet.

    Args:
        path: file to write.
        series: source series.
        planes: number of the vertebra at every pixel (rows, columns), 0 outside, by index of the slice in order of position.
        records: rows of the vertebrae; one without a pixel has no segment.
        version: version of this program with its weights.
        note: called with a line for each kind of value of the source that was repaired.

    Raises:
        ValueError: when there is no vertebra, planes and rows do not fit, or the source lacks an attribute that a DICOM-SEG must
            reference.
    """
    import highdicom as hd
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    by_number = {r.vertebra: r for r in records}
    if len(by_number) < len(records):
        raise ValueError(f"{path}: two rows have one number of a vertebra; must differ")
    slices, present, labels = _labels(series, planes, list(by_number), path)
    if not present:
        raise ValueError(f"{path}: not written, as there is no vertebra")
    algorithm, segments = algorithm_of(version), []
    for number, vertebra in enumerate(present, 1):
        record = by_number[vertebra]
        colour = FRACTURE_COLOUR if record.fractured else INTACT_COLOURS[vertebra % 2]
        segment = SegmentDescription(
            segment_number=number,
            segment_label=dicom_text(record.name + (" fractured" if record.fractured else "")),
            segmented_property_category=ANATOMICAL_STRUCTURE.code(),
            segmented_property_type=level_concept(record.level).code(),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=hd.UID(),
            tracking_id=tracking_id(record),
            display_color=hd.color.CIELabColor(*colour),
        )
        if record.fractured:
            modifier = hd.sr.CodedConcept.from_code(FRACTURE.code())
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
        guess = "; level guessed by counting from the sacrum" if record.level_source == "guess" else ""
        segment.SegmentDescription = f"{DISCLAIMER}; automatic{guess}"
        segments.append(segment)
    _save(path, series, slices, labels, segments, version, "Vertebrae", note)


def write_segmentation(
    path: Path, series: DicomSeries, planes: Mapping[int, NDArray], findings: Sequence[dict], version: str, note: Note = None
) -> None:
    """Write one DICOM-SEG with a segment per finding, for networks without vertebrae.

    Args:
        path: file to write.
        series: source series.
        planes: number of the finding at every pixel (rows, columns) of the slices with findings, by index in order of position.
        findings: rows of the table of findings, with ``finding`` and ``level``.
        version: version of this program with its weights.
        note: called with a line for each kind of value of the source that was repaired.

    Raises:
        ValueError: when there is no finding, planes and rows do not fit, or the source lacks an attribute that a DICOM-SEG must
            reference.
    """
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription

    by_number = {f["finding"]: f for f in findings}
    slices, present, labels = _labels(series, planes, list(by_number), path)
    if not present:
        raise ValueError(f"{path}: not written, as there is no finding")
    algorithm, segments = algorithm_of(version), []
    for number, finding in enumerate(present, 1):
        level = str(by_number[finding]["level"])
        segments.append(
            SegmentDescription(
                segment_number=number,
                segment_label=dicom_text(f"Fractured vertebra {finding}" + (f" ({level})" if level else "")),
                segmented_property_category=ABNORMAL_STRUCTURE.code(),
                segmented_property_type=FRACTURE.code(),
                anatomic_regions=[level_concept(level).code()],
                algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    _save(path, series, slices, labels, segments, version, "Vertebral fractures", note)
