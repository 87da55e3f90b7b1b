# SPDX-License-Identifier: Apache-2.0
"""File formats of scans and masks, read as NIfTI images in memory."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .declared_geometry import itk_geometry, nifti_geometry
from .dicom import read_series, read_slice
from .fast_gzip import register
from .geometry_rules import DEFAULT_RULES

NIFTI = (".nii.gz", ".nii")
VOLUMES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURES = (".png", ".bmp", ".tif", ".tiff")
SLICES = (*PICTURES, ".dcm")
register()  # every reader of NIfTI files imports this module


def file_suffix(path: Path | str) -> str:
    """Suffix of a supported format in lower case, such as ".nii.gz", or ""."""
    name = Path(path).name.lower()
    return next((e for e in (*VOLUMES, *SLICES) if name.endswith(e)), "")


def stem(path: Path | str) -> str:
    """Name of a file without ``file_suffix``."""
    name = Path(path).name
    return name[: len(name) - len(file_suffix(path))]


def as_sagittal(picture: NDArray, spacing: tuple[float, float]) -> nib.Nifti1Image:
    """Volume (1, columns, rows) of one sagittal slice, with its affine (R, A, S, mm).

    Args:
        picture: (row from head to feet, column from anterior to posterior).
        spacing: spacing of rows and of columns in mm.
    """
    affine = np.diag([1.0, -spacing[1], spacing[0], 1.0])
    return nib.Nifti1Image(np.ascontiguousarray(picture[::-1].T[None]), affine)


def read_picture(path: Path | str) -> NDArray:
    """Read an 8- or 16-bit image as (rows, columns); an RGB image must be grey.

    Raises:
        ValueError: for a colour image, or one that cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            data = np.asarray(file if file.mode not in ("P", "1") else file.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}); copy it again") from None
    if data.ndim == 3:
        colours = data[..., :3] if data.shape[-1] > 2 else data[..., :1]
        if (colours != colours[..., :1]).any():
            raise ValueError(f"{path}: is a colour image; save it as greyscale")
        data = colours[..., 0]
    return data


def is_deep_picture(path: Path) -> bool:
    """True for a picture of more than 8 bits, by its header; False for other files, and for one that cannot be read."""
    from PIL import Image, UnidentifiedImageError

    if file_suffix(path) not in PICTURES:
        return False
    try:
        with Image.open(path) as file:
            return file.mode[0] in "IF"
    except (UnidentifiedImageError, OSError, SyntaxError):
        return False


def _read_nifti(path: Path) -> nib.Nifti1Image:
    """NIfTI image with an affine in mm, whatever the unit of its file."""
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        return image
    declared = nifti_geometry(path, image, DEFAULT_RULES)
    if declared.mm == 1.0:
        return image
    converted = nib.Nifti1Image(image.dataobj, declared.affine(image.affine), image.header.copy())
    converted.header.set_xyzt_units("mm")
    return converted


def read_volume(path: Path | str, pixel_mm: float = 1.0) -> nib.Nifti1Image:
    """Read a NIfTI, NRRD or MHA file, a folder with a DICOM series, a PNG or TIFF image or a single DICOM slice.

    Args:
        path: file or folder.
        pixel_mm: pixel size of a PNG or TIFF image in mm, which its file lacks.

    Returns:
        The image (X, Y, Z) with its affine (R, A, S, mm); a 2D image or single slice becomes a volume of one sagittal slice.

    Raises:
        ValueError: one line with the file and the reason it cannot be read.
    """
    source = Path(path)
    if source.is_dir():
        return read_series(source)[0]
    kind = file_suffix(source)
    if kind in NIFTI:
        return _read_nifti(source)
    if kind in PICTURES:
        return as_sagittal(read_picture(source), (pixel_mm, pixel_mm))
    if kind == ".dcm":
        return as_sagittal(*read_slice(source))
    if kind in VOLUMES:
        from monai.transforms import LoadImage

        declared = itk_geometry(source, DEFAULT_RULES)
        image = LoadImage(image_only=True)(str(source))
        array = np.asarray(image)
        whole = np.abs(array).max(initial=0) < 2**15 and not np.any(array % 1)
        return nib.Nifti1Image(array.astype(np.int16) if whole else array, declared.affine(np.asarray(image.affine)))
    raise ValueError(f"{source}: has no supported format; expected one of {', '.join((*VOLUMES, *SLICES))}")
