# SPDX-License-Identifier: Apache-2.0
"""Headers of the DICOM files of a folder, read without their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import last_line

REQUIRED_TAGS = (
    "RescaleSlope",
    "RescaleIntercept",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
TAGS = (
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "PhotometricInterpretation",
    *REQUIRED_TAGS,
    "NumberOfFrames",
    "PatientID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "InstanceNumber",
)
Header = Any  # pydicom.Dataset
PREFIX_BYTES = 132  # preamble and "DICM"


def is_dicom(path: Path) -> bool:
    """Return True for a file with the DICOM prefix; files without a size, such as /proc/kmsg, may never end and are not opened."""
    if not path.is_file() or path.stat().st_size < PREFIX_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(PREFIX_BYTES)[128:] == b"DICM"


def is_localizer(header: Header) -> bool:
    """True for a scout view."""
    kinds = header.get("ImageType") or []
    return "LOCALIZER" in [str(v).upper() for v in ([kinds] if isinstance(kinds, str) else kinds)]


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
