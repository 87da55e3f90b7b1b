# SPDX-License-Identifier: Apache-2.0
"""Files of a DICOM CT series: found, checked and ordered by position, before any pixel is decoded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TAGS = (
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
)
REQUIRED_TAGS = TAGS[5:12]
GAP_TOLERANCE = 0.1  # of the slice distance
TILT_TOLERANCE_DEGREES = 0.5
Header = Any  # pydicom.Dataset


@dataclass(frozen=True)
class DicomSeries:
    """A CT series of checked geometry whose pixels are not decoded yet.

    Attributes:
        folder: folder of the files.
        files: slices in order of their position.
        headers: headers of these files, without pixels.
        shape: columns, rows, slices.
        affine: voxel to world (R, A, S, mm).
        notes: skipped files, one line each.
    """

    folder: str
    files: list[Path]
    headers: list[Header]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    notes: list[str]


def is_dicom(path: Path) -> bool:
    """Return True for a file with the DICOM prefix."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_headers(folder: str | Path) -> list[tuple[Path, Header]]:
    """Read the headers of all DICOM files directly in a folder; other files are skipped.

    Raises:
        ValueError: when pydicom is missing or the folder holds no DICOM file.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise ValueError(f"{folder}: reading DICOM needs pydicom; pip install pydicom") from None
    headers = []
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and file.name != "DICOMDIR":
            try:
                headers.append((file, pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))))
            except InvalidDicomError:
                continue
    if not headers:
        raise ValueError(f"{folder}: contains no DICOM file; expected the folder of one series")
    return headers


def check_ct_slice(file: Path, header: Header) -> None:
    """Refuse everything but a single-frame CT slice in HU.

    Raises:
        ValueError: one line with file, value and remedy.
    """
    modality = str(header.get("Modality", "")) or "none"
    if modality != "CT":
        raise ValueError(f"{file}: Modality is {modality}; must be CT")
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError(f"{file}: is an enhanced multi-frame CT; convert it to NIfTI (dcm2niix does)")
    photometric = str(header.get("PhotometricInterpretation", "")) or "none"
    if photometric != "MONOCHROME2":
        raise ValueError(f"{file}: PhotometricInterpretation is {photometric}; must be MONOCHROME2 for a CT in HU")
    missing = [tag for tag in REQUIRED_TAGS if header.get(tag) in (None, "")]
    if missing:
        raise ValueError(
            f"{file}: lacks {', '.join(missing)}, without which HU and position are undefined; export the series again"
        )


def _select_series(folder: Path, headers: list[tuple[Path, Header]], notes: list[str]) -> list[tuple[Path, Header]]:
    """Slices of the only series, without localizers and copies."""
    slices = [(f, h) for f, h in headers if "LOCALIZER" not in [str(v).upper() for v in h.get("ImageType", [])]]
    if not slices:
        raise ValueError(f"{folder}: contains only localizers; expected the folder of the axial series")
    if len(slices) < len(headers):
        notes.append(f"{folder}: {len(headers) - len(slices)} localizer(s) skipped")
    by_series: dict[str, list[tuple[Path, Header]]] = defaultdict(list)
    for file, header in slices:
        by_series[str(header.get("SeriesInstanceUID", ""))].append((file, header))
    if len(by_series) > 1:
        counts = ", ".join(f"{uid} ({len(items)} files)" for uid, items in by_series.items())
        raise ValueError(f"{folder}: contains {len(by_series)} series: {counts}; put each series into its own folder")
    unique: dict[tuple[str, str], tuple[Path, Header]] = {}
    for file, header in slices:
        # Anonymisation may write one UID into every slice, so a copy must share the position, too.
        key = (str(header.get("SOPInstanceUID", file)), str(header.get("ImagePositionPatient", file)))
        unique.setdefault(key, (file, header))
    if len(unique) < len(slices):
        notes.append(f"{folder}: {len(slices) - len(unique)} file(s) repeat a slice under another name; skipped")
    return list(unique.values())


def _check_parallel(items: list[tuple[Path, Header]]) -> None:
    """Refuse slices that differ in size, orientation or pixel spacing."""
    first = items[0][1]
    orientation = np.array(first.ImageOrientationPatient, np.float64)
    for file, header in items:
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise ValueError(
                f"{file}: has {header.Rows} x {header.Columns} pixels, others {first.Rows} x {first.Columns}; "
                "export slices of one size"
            )
        if np.abs(np.array(header.ImageOrientationPatient, np.float64) - orientation).max() > 1e-3:
            raise ValueError(f"{file}: is not parallel to the other slices; expected a series of parallel slices")
        if not np.allclose(np.array(header.PixelSpacing, float), np.array(first.PixelSpacing, float), rtol=1e-3):
            raise ValueError(
                f"{file}: PixelSpacing is {list(header.PixelSpacing)} mm, of others {list(first.PixelSpacing)} mm; "
                "export slices of one spacing"
            )


def _affine(header: Header, step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine (R, A, S, mm) of an array indexed column, row, slice; ``step`` (3,) leads to the next slice (L, P, S, mm)."""
    row, column = (np.array(header.ImageOrientationPatient[i : i + 3], np.float64) for i in (0, 3))
    spacing = [float(s) for s in header.PixelSpacing]  # between rows, between columns
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * spacing[1], column * spacing[0], step
    affine[:3, 3] = np.array(header.ImagePositionPatient, np.float64)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _sort_by_position(folder: Path, items: list[tuple[Path, Header]]) -> tuple[list[tuple[Path, Header]], NDArray[np.float64]]:
    """Slices in order of their position, and the affine; refuses gaps, repeated positions and a tilted gantry."""
    orientation = np.array(items[0][1].ImageOrientationPatient, np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([[float(v) for v in h.ImagePositionPatient] for _, h in items])
    order = np.argsort(positions @ normal)
    along = (positions @ normal)[order]
    steps = np.diff(along)
    step = float(np.median(steps))
    names = [items[i][0].name for i in order]
    if step < 1e-3 or (steps < GAP_TOLERANCE * step).any():
        at = int(np.argmin(steps))
        raise ValueError(
            f"{folder}: {names[at]} and {names[at + 1]} have the same position ({along[at]:.2f} mm); "
            "keep one phase or reconstruction"
        )
    if (np.abs(steps - step) > GAP_TOLERANCE * step).any():
        at = int(np.argmax(steps))
        missing = round(steps[at] / step) - 1
        defect = f"{missing} slice(s) are missing" if missing >= 1 else "the slices are not evenly spaced"
        raise ValueError(
            f"{folder}: {defect} near {names[at]} ({steps[at]:.2f} mm, elsewhere {step:.2f} mm); export the series again"
        )
    mean_step = (positions[order[-1]] - positions[order[0]]) / (len(items) - 1)
    tilt = float(np.degrees(np.arccos(np.clip(mean_step @ normal / np.linalg.norm(mean_step), -1, 1))))
    if tilt > TILT_TOLERANCE_DEGREES:
        raise ValueError(f"{folder}: the gantry was tilted by {tilt:.1f} degrees; correct the tilt first (dcm2niix does)")
    return [items[i] for i in order], _affine(items[order[0]][1], mean_step)


def find_series(folder: str | Path) -> DicomSeries:
    """Find the CT series in a folder; slices are ordered by their position, never by their name.

    Args:
        folder: folder that holds one series; its localizers are left out.

    Raises:
        ValueError: one line; several series, another modality, repeated or missing slices, a tilted gantry, missing tags.
    """
    root, notes = Path(folder), []  # type: tuple[Path, list[str]]
    items = _select_series(root, read_headers(root), notes)
    for file, header in items:
        check_ct_slice(file, header)
    if len(items) < 2:
        raise ValueError(f"{root}: contains a single slice; expected a series of at least two")
    _check_parallel(items)
    items, affine = _sort_by_position(root, items)
    files, headers = [f for f, _ in items], [h for _, h in items]
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(files))
    return DicomSeries(str(root), files, headers, shape, affine, notes)
