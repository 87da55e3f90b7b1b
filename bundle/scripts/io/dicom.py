# SPDX-License-Identifier: Apache-2.0
"""Pixels of DICOM CT slices and series in HU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.errors import last_line
from .dicom_headers import TAGS, Header
from .dicom_multiframe import open_frames
from .dicom_series import DicomSeries, check_ct_slice, find_series
from .geometry_rules import DEFAULT_RULES, GeometryRules

HU_RANGE = (-32768, 32767)


def load_itk() -> None:
    """Import ITK with its readers, which take about 300 MiB, so that the memory of a process is measured with them."""
    import itk

    itk.GDCMImageIO.New()


def load_packages() -> None:
    """Import the packages that a DICOM series needs, so that the memory of a process is measured with them."""
    load_itk()
    with contextlib.suppress(ImportError):
        import highdicom  # noqa: F401


def _pixels(files: Sequence[Path], headers: Sequence[Header]) -> NDArray:
    """Voxels in HU (slice, row, column) as stored; 16-bit where slope and intercept are integers, else float.

    Metal can exceed 16 bits after rescaling; such values are clipped to the ends of the range, as those of NIfTI are.
    """
    import itk

    itk.Object.SetGlobalWarningDisplay(False)  # of positions, which are checked already
    scales = {(float(h.RescaleSlope), float(h.RescaleIntercept)) for h in headers}
    whole = len(scales) == 1 and all(float(v).is_integer() for v in next(iter(scales)))
    try:
        image = itk.imread([str(f) for f in files], itk.SI if whole else itk.F, imageio=itk.GDCMImageIO.New())
    except RuntimeError as error:
        raise ValueError(f"{files[0].parent}: the pixels cannot be read ({last_line(error)}); export the series again") from None
    array = np.asarray(itk.array_view_from_image(image))
    array = array.reshape(len(files), *array.shape[-2:])
    return array.clip(*HU_RANGE).astype(np.int16) if whole else array.copy()


def read_slabs(series: DicomSeries, depth: int = 16) -> Iterator[NDArray]:
    """Voxels in HU (slice, row, column) on the grid of the series, ``depth`` slices at a time.

    Raises:
        ValueError: for pixels that cannot be decoded.
    """

    def read_files(start: int, stop: int) -> NDArray:
        return _pixels(series.files[start:stop], series.headers[start:stop])

    read = read_files if series.multiframe is None else open_frames(series.multiframe, series.headers)
    if series.straight is not None:
        yield from series.straight.slabs(read, depth)
        return
    for start in range(0, len(series.files), depth):
        yield read(start, start + depth)


def read_series(folder: str | Path, rules: GeometryRules = DEFAULT_RULES) -> tuple[nib.Nifti1Image, list[str]]:
    """Read the CT series in a folder.

    Args:
        folder: folder that holds one series.
        rules: tolerance of the positions.

    Returns:
        Volume in HU (column, row, slice) with its affine (R, A, S, mm), and a line for each kind of file left out.

    Raises:
        ValueError: as ``find_series``, and for pixels that cannot be decoded.
    """
    series = find_series(folder, rules)
    voxels = np.concatenate(list(read_slabs(series)))
    if series.straight is not None or series.multiframe is not None:  # calculated as float; HU are integers
        voxels = np.rint(np.clip(voxels, *HU_RANGE)).astype(np.int16)
    return nib.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), series.affine), series.notes


def read_slice(file: str | Path) -> tuple[NDArray, tuple[float, float]]:
    """Read a single sagittal CT slice.

    Returns:
        HU (row from head to feet, column from anterior to posterior), and the spacing of rows and columns in mm.

    Raises:
        ValueError: as ``read_series``, and for a slice in another plane.
    """
    import pydicom

    path = Path(file)
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
    check_ct_slice(path, header)
    spacing = [float(s) for s in header.PixelSpacing]
    hu = _pixels([path], [header])[0]
    along_columns, along_rows = np.asarray(header.ImageOrientationPatient, float).reshape(2, 3)
    plane = int(np.abs(np.cross(along_columns, along_rows)).argmax())
    if plane != 0:
        raise ValueError(
            f"{path}: is {('', 'a coronal', 'an axial')[plane]} slice; single slices must be sagittal, and a whole series is "
            f"read from its folder, {path.parent.name}"
        )
    if abs(along_rows[2]) < abs(along_rows[1]):
        hu, spacing = hu.T, spacing[::-1]
        along_columns, along_rows = along_rows, along_columns
    if along_rows[2] > 0:
        hu = hu[::-1]
    if along_columns[1] < 0:
        hu = hu[:, ::-1]
    return hu, (spacing[0], spacing[1])
