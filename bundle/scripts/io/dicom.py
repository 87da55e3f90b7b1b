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
from .dicom_series import TAGS, DicomSeries, Header, check_ct_slice, find_series


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
    """Voxels in HU (slice, row, column); 16-bit where slope and intercept are integers, else float."""
    import itk

    scales = {(float(h.RescaleSlope), float(h.RescaleIntercept)) for h in headers}
    whole = len(scales) == 1 and all(float(v).is_integer() for v in next(iter(scales)))
    try:
        image = itk.imread([str(f) for f in files], itk.SS if whole else itk.F, imageio=itk.GDCMImageIO.New())
    except RuntimeError as error:
        raise ValueError(f"{files[0].parent}: the pixels cannot be read ({last_line(error)}); export the series again") from None
    array = np.asarray(itk.array_from_image(image))
    return array.reshape(len(files), *array.shape[-2:])


def read_slabs(series: DicomSeries, depth: int = 16) -> Iterator[NDArray]:
    """Voxels in HU (slice, row, column), ``depth`` slices at a time.

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
        Volume in HU (column, row, slice) with its affine (R, A, S, mm), and a line for each kind of file left out.

    Raises:
        ValueError: as ``find_series``, and for pixels that cannot be decoded.
    """
    series = find_series(folder)
    voxels = _pixels(series.files, series.headers)
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
