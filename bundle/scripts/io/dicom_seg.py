# SPDX-License-Identifier: Apache-2.0
"""Findings as a DICOM Segmentation that references its source series."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_write
from ..core.geometry import spacing_of
from .dicom_series import DicomSeries

DISCLAIMER = "RESEARCH USE ONLY"
MANUFACTURER = "spine_fracture_ct_segmentation"
NOT_INSTALLED = "highdicom is not installed; pip install highdicom, which needs pydicom 3 or newer"


def available() -> bool:
    """Return True when highdicom, which writes these files, is installed."""
    return importlib.util.find_spec("highdicom") is not None


def _ascii(text: str, length: int) -> str:
    return text.encode("ascii", "replace").decode()[:length]


def write_segmentation(
    path: Path, series: DicomSeries, planes: Mapping[int, NDArray], findings: Sequence[dict], version: str
) -> None:
    """Write one DICOM-SEG with a segment per finding.

    Args:
        path: file to write.
        series: source series.
        planes: number of the finding at every pixel (rows, columns) of the slices with findings, by index in order of position.
        findings: rows of the table of findings, with ``finding`` and ``level``.
        version: version of this program with its weights.

    Raises:
        ValueError: when there is no finding, or the source lacks an attribute that a DICOM-SEG must repeat.
    """
    import highdicom as hd
    import pydicom
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.coding import Code

    if not planes:
        raise ValueError(f"{path}: not written, as there is no finding")
    slices = sorted(planes)
    sources = [pydicom.dcmread(series.files[k], stop_before_pixels=True) for k in slices]
    missing = [n for n in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID") if not sources[0].get(n)]
    if missing:
        raise ValueError(
            f"{series.files[slices[0]]}: lacks {', '.join(missing)}, which a DICOM-SEG must reference; export the series again"
        )
    for source in sources:
        if "SliceThickness" not in source:  # highdicom repeats it; the distance between the slices is a substitute
            source.SliceThickness = f"{spacing_of(series.affine)[2]:.4f}"
    algorithm = hd.AlgorithmIdentificationSequence(
        name=MANUFACTURER, version=_ascii(version, 64), family=Code("123110", "DCM", "Artificial Intelligence")
    )
    segments = [
        SegmentDescription(
            segment_number=f["finding"],
            segment_label=_ascii(f"Fractured vertebra {f['finding']}" + (f" ({f['level']})" if f["level"] else ""), 64),
            segmented_property_category=Code("49755003", "SCT", "Morphologically Altered Structure"),
            segmented_property_type=Code("72704001", "SCT", "Fracture"),
            anatomic_regions=[Code("51282000", "SCT", "Vertebra")],
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for f in findings
    ]
    labels = np.stack([planes[k] for k in slices]).astype(np.uint8 if len(findings) < 256 else np.uint16)
    segmentation = Segmentation(
        source_images=sources,
        pixel_array=labels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=int(sources[0].get("SeriesNumber", 0) or 0) + 9000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="MSFFNet",
        software_versions=_ascii(version, 64),
        device_serial_number="0",
        series_description=f"Vertebral fractures, {DISCLAIMER}",
        content_label="FRACTURES",
        content_description=f"Automatic, {DISCLAIMER}",
        omit_empty_frames=True,
    )
    with atomic_write(path) as temporary:
        segmentation.save_as(temporary)
