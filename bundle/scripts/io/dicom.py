# SPDX-License-Identifier: Apache-2.0
"""A DICOM CT series as a volume in HU, or one line that says why it is none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
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
NEEDED = TAGS[5:12]
GAP_TOLERANCE = 0.1  # of the slice distance
TILT_TOLERANCE_DEGREES = 0.5
Header = Any  # pydicom.Dataset


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_headers(folder: str | Path) -> list[tuple[Path, Header]]:
    """Read the headers of the DICOM files that lie in a folder; other files are passed over.

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
        raise ValueError(f"{folder}: holds no DICOM file; give the folder of one series")
    return headers


def _one_series(folder: Path, headers: list[tuple[Path, Header]], notes: list[str]) -> list[tuple[Path, Header]]:
    kept = [(f, h) for f, h in headers if "LOCALIZER" not in [str(v).upper() for v in h.get("ImageType", [])]]
    if not kept:
        raise ValueError(f"{folder}: holds nothing but localizers; give the folder of the axial series")
    if len(kept) < len(headers):
        notes.append(f"{folder}: {len(headers) - len(kept)} localizer(s) left out")
    by_series: dict[str, list[tuple[Path, Header]]] = defaultdict(list)
    for file, header in kept:
        by_series[str(header.get("SeriesInstanceUID", ""))].append((file, header))
    if len(by_series) > 1:
        counts = ", ".join(f"{uid} ({len(items)} files)" for uid, items in by_series.items())
        raise ValueError(f"{folder}: holds {len(by_series)} series: {counts}; give each series a folder of its own")
    unique: dict[tuple[str, str], tuple[Path, Header]] = {}
    for file, header in kept:
        # Anonymising tools may give every slice one UID, so the place has to agree too.
        key = (str(header.get("SOPInstanceUID", file)), str(header.get("ImagePositionPatient", file)))
        unique.setdefault(key, (file, header))
    if len(unique) < len(kept):
        notes.append(f"{folder}: {len(kept) - len(unique)} file(s) repeat a slice under another name; left out")
    return list(unique.values())


def _check_header(file: Path, header: Header) -> None:
    """Refuse what is no plain CT slice."""
    modality = str(header.get("Modality", "")) or "none"
    if modality != "CT":
        raise ValueError(f"{file}: Modality is {modality}; only CT is read")
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError(f"{file}: is an enhanced multi-frame CT; convert it to NIfTI (dcm2niix does)")
    photometric = str(header.get("PhotometricInterpretation", "")) or "none"
    if photometric != "MONOCHROME2":
        raise ValueError(f"{file}: PhotometricInterpretation is {photometric}; a CT in HU is MONOCHROME2")
    missing = [tag for tag in NEEDED if header.get(tag) in (None, "")]
    if missing:
        raise ValueError(f"{file}: lacks {', '.join(missing)}; HU and place cannot be known, export the series anew")


def _affine(header: Header, step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine (R, A, S, mm) of an array indexed column, row, slice."""
    row, column = (np.array(header.ImageOrientationPatient[i : i + 3], np.float64) for i in (0, 3))
    spacing = [float(s) for s in header.PixelSpacing]  # between rows, between columns
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * spacing[1], column * spacing[0], step
    affine[:3, 3] = np.array(header.ImagePositionPatient, np.float64)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _ordered(folder: Path, items: list[tuple[Path, Header]]) -> tuple[list[Path], NDArray[np.float64]]:
    """Files by position, and the affine; refuses what is no evenly spaced box."""
    first = items[0][1]
    orientation = np.array(first.ImageOrientationPatient, np.float64)
    for file, header in items:
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise ValueError(
                f"{file}: has {header.Rows} x {header.Columns} pixels, others {first.Rows} x {first.Columns}"
            )
        if np.abs(np.array(header.ImageOrientationPatient, np.float64) - orientation).max() > 1e-3:
            raise ValueError(f"{file}: is turned against the other slices; give a series of parallel slices")
        if not np.allclose(np.array(header.PixelSpacing, float), np.array(first.PixelSpacing, float), rtol=1e-3):
            raise ValueError(f"{file}: PixelSpacing {list(header.PixelSpacing)}, others {list(first.PixelSpacing)}")
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([[float(v) for v in h.ImagePositionPatient] for _, h in items])
    order = np.argsort(positions @ normal)
    along = (positions @ normal)[order]
    steps = np.diff(along)
    step = float(np.median(steps))
    names = [items[i][0] for i in order]
    if step < 1e-3 or (steps < GAP_TOLERANCE * step).any():
        at = int(np.argmin(steps))
        raise ValueError(
            f"{folder}: {names[at].name} and {names[at + 1].name} lie at the same place ({along[at]:.2f} mm); "
            "keep one phase or reconstruction"
        )
    uneven = np.abs(steps - step) > GAP_TOLERANCE * step
    if uneven.any():
        at = int(np.argmax(steps))
        lost = round(steps[at] / step) - 1
        what = f"{lost} slice(s) are missing" if lost >= 1 else "the slices are not evenly spaced"
        raise ValueError(
            f"{folder}: {what} near {names[at].name} ({steps[at]:.2f} mm, elsewhere {step:.2f} mm); export the series anew"
        )
    whole = (positions[order[-1]] - positions[order[0]]) / (len(items) - 1)
    tilt = float(np.degrees(np.arccos(np.clip(whole @ normal / np.linalg.norm(whole), -1, 1))))
    if tilt > TILT_TOLERANCE_DEGREES:
        raise ValueError(
            f"{folder}: the gantry was tilted by {tilt:.1f} degrees; straighten the series first (dcm2niix does)"
        )
    return names, _affine(items[order[0]][1], whole)


@dataclass(frozen=True)
class SeriesFiles:
    """A CT series whose geometry is known and whose pixels are not read yet.

    Attributes:
        folder: where it lies.
        files: slices in order of their position.
        headers: of these files, without pixels.
        shape: columns, rows, slices.
        affine: voxel to world (R, A, S, mm).
        notes: what was repaired, a line each.
    """

    folder: str
    files: list[Path]
    headers: list[Header]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    notes: list[str]


def _pixels(files: Sequence[Path], headers: Sequence[Header]) -> NDArray:
    """Voxels in HU, indexed slice, row, column; 16-bit where every rescaling is whole."""
    import itk

    slopes = {(float(h.RescaleSlope), float(h.RescaleIntercept)) for h in headers}
    whole = len(slopes) == 1 and all(float(v).is_integer() for v in next(iter(slopes)))
    try:
        image = itk.imread([str(f) for f in files], itk.SS if whole else itk.F, imageio=itk.GDCMImageIO.New())
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"{files[0].parent}: the pixels cannot be read ({lines[-1] if lines else 'no reason given'})"
        ) from None
    array = np.asarray(itk.array_from_image(image))
    return array.reshape(len(files), *array.shape[-2:])


def find_series(folder: str | Path) -> SeriesFiles:
    """Find the CT series in a folder; slices are put in order by their position, never by their name.

    Args:
        folder: folder that holds one series; localizers beside it are left out.

    Raises:
        ValueError: one line; several series, another modality, repeated or missing slices, a tilted gantry, tags without which
            HU or place would be a guess.
    """
    root, notes = Path(folder), []  # type: tuple[Path, list[str]]
    items = _one_series(root, read_headers(root), notes)
    for file, header in items:
        _check_header(file, header)
    if len(items) < 2:
        raise ValueError(f"{root}: holds a single slice; a series of at least two is needed")
    files, affine = _ordered(root, items)
    by_file = dict(items)
    headers = [by_file[f] for f in files]
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(files))
    return SeriesFiles(str(root), files, headers, shape, affine, notes)


def read_slabs(series: SeriesFiles, depth: int = 16) -> Iterator[NDArray]:
    """Voxels in HU, ``depth`` slices at a time, indexed slice, row, column.

    Raises:
        ValueError: for pixels that cannot be decoded.
    """
    for start in range(0, len(series.files), depth):
        yield _pixels(series.files[start : start + depth], series.headers[start : start + depth])


def read_series(folder: str | Path) -> tuple[nib.Nifti1Image, list[str]]:
    """Read the CT series in a folder.

    Args:
        folder: folder that holds one series.

    Returns:
        The volume in HU with its affine (R, A, S, mm), and what was repaired, a line each.

    Raises:
        ValueError: as ``find_series``, and for pixels that cannot be decoded.
    """
    series = find_series(folder)
    voxels = _pixels(series.files, series.headers)
    return nib.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), series.affine), series.notes


def read_slice(file: str | Path) -> tuple[NDArray, tuple[float, float]]:
    """Read a single sagittal CT slice.

    Returns:
        HU, indexed row (head to feet), column (front to back), and the distance of rows and columns in mm.

    Raises:
        ValueError: as ``read_series``, and for a slice in another plane.
    """
    import pydicom

    path = Path(file)
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
    _check_header(path, header)
    spacing = [float(s) for s in header.PixelSpacing]
    picture = _pixels([path], [header])[0]
    along_columns, along_rows = np.asarray(header.ImageOrientationPatient, float).reshape(2, 3)
    plane = int(np.abs(np.cross(along_columns, along_rows)).argmax())
    if plane != 0:
        raise ValueError(
            f"{path}: is {('', 'a coronal', 'an axial')[plane]} slice; single slices must be sagittal, and for a whole series "
            f"give the folder that {path.parent.name} lies in"
        )
    if abs(along_rows[2]) < abs(along_rows[1]):
        picture, spacing = picture.T, spacing[::-1]
        along_columns, along_rows = along_rows, along_columns
    if along_rows[2] > 0:
        picture = picture[::-1]
    if along_columns[1] < 0:
        picture = picture[:, ::-1]
    return picture, (spacing[0], spacing[1])
