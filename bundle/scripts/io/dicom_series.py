# SPDX-License-Identifier: Apache-2.0
"""Files of a DICOM CT series: found, checked and ordered by position, before any pixel is decoded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import last_line

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
UNIT_TOLERANCE = 1e-2  # of the dot products of rows and columns
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


def _named(files: list[Path]) -> str:
    return f"{len(files)} file(s), such as {files[0].name}" if len(files) > 1 else files[0].name


def read_headers(folder: str | Path, notes: list[str] | None = None) -> list[tuple[Path, Header]]:
    """Read the headers of all DICOM files directly in a folder; other files are skipped.

    Args:
        folder: folder of the files.
        notes: receives a line for each kind of file that is skipped.

    Raises:
        ValueError: when pydicom is missing, a file is damaged, or the folder holds no DICOM file.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise ValueError(f"{folder}: reading DICOM needs pydicom; pip install pydicom") from None
    headers: list[tuple[Path, Header]] = []
    twins: list[Path] = []
    empty: list[Path] = []
    other: list[Path] = []
    for file in sorted(Path(folder).iterdir()):
        if not file.is_file() or file.name == "DICOMDIR":
            continue
        if file.name.startswith("."):
            twins.append(file)
            continue
        try:
            if file.stat().st_size == 0:
                empty.append(file)
                continue
            headers.append((file, pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))))
        except InvalidDicomError:
            other.append(file)
        except OSError as error:
            raise ValueError(f"{file}: cannot be opened ({error.strerror or last_line(error)}); change its permissions") from None
        except Exception as error:  # struct, key and value errors of a file that ends inside an element
            raise ValueError(
                f"{file}: its DICOM header is damaged ({last_line(error)}), perhaps cut off; copy the series again"
            ) from None
    if not headers:
        raise ValueError(f"{folder}: contains no DICOM file; expected the folder of one series")
    if notes is not None:
        if empty:
            notes.append(f"{folder}: {_named(empty)}: empty (0 bytes), so slices may be missing at an end; copy the series again")
        if twins:
            notes.append(f"{folder}: {_named(twins)}: hidden, such as the `._` files of macOS; skipped")
        if other:
            notes.append(f"{folder}: {_named(other)}: no DICOM; skipped")
    return headers


def _numbers(file: Path, header: Header, tag: str, count: int) -> NDArray[np.float64]:
    """Values of a tag (count,), finite."""
    value = header.get(tag)
    try:
        numbers = np.atleast_1d(np.array(value, np.float64))
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        many = "one finite number" if count == 1 else f"{count} finite numbers"
        raise ValueError(f"{file}: {tag} is {value!s}; must be {many}, so export the series again")
    return numbers


def _check_geometry(file: Path, header: Header) -> None:
    """Refuse a slice whose numbers of geometry or scaling are incomplete, not finite or impossible.

    Raises:
        ValueError: one line with file, tag, value and remedy.
    """
    counts = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "RescaleSlope": 1, "RescaleIntercept": 1}
    values = {tag: _numbers(file, header, tag, count) for tag, count in counts.items()}
    values |= {tag: _numbers(file, header, tag, 1) for tag in ("Rows", "Columns")}
    for tag in ("PixelSpacing", "Rows", "Columns"):
        if values[tag].min() <= 0:
            raise ValueError(f"{file}: {tag} is {header.get(tag)}; must be above 0, so export the series again")
    axes = values["ImageOrientationPatient"].reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > UNIT_TOLERANCE:
        shown = [round(float(v), 4) for v in axes.ravel()]
        raise ValueError(f"{file}: ImageOrientationPatient is {shown}; must be two unit vectors at a right angle, so export again")


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
    _check_geometry(file, header)


def _select_series(folder: Path, headers: list[tuple[Path, Header]], notes: list[str]) -> list[tuple[Path, Header]]:
    """Slices of the only series, without localizers and copies."""
    slices = [(f, h) for f, h in headers if "LOCALIZER" not in [str(v).upper() for v in h.get("ImageType", [])]]
    if not slices:
        raise ValueError(f"{folder}: contains only localizers; expected the folder of the axial series")
    if len(slices) < len(headers):
        notes.append(f"{folder}: {len(headers) - len(slices)} localizer(s) skipped")
    for file, header in slices:
        if "SeriesInstanceUID" not in header and "Rows" not in header:
            raise ValueError(
                f"{file}: its DICOM header has no SeriesInstanceUID and no Rows, perhaps cut off; copy the series again"
            )
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
    items = _select_series(root, read_headers(root, notes), notes)
    for file, header in items:
        check_ct_slice(file, header)
    if len(items) < 2:
        raise ValueError(f"{root}: contains a single slice; expected a series of at least two")
    _check_parallel(items)
    items, affine = _sort_by_position(root, items)
    files, headers = [f for f, _ in items], [h for _, h in items]
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(files))
    return DicomSeries(str(root), files, headers, shape, affine, notes)
