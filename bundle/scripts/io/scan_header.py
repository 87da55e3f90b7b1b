# SPDX-License-Identifier: Apache-2.0
"""Header of a stored CT: shape, affine and type, read and checked before its voxels."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.errors import last_line
from ..core.geometry import spacing_of
from .declared_geometry import itk_geometry, nifti_geometry
from .dicom_series import DicomSeries, find_series
from .formats import NIFTI, VOLUMES, file_suffix
from .geometry_rules import DEFAULT_RULES, GeometryRules
from .image_checks import geometry_issues, volume_shape

MIN_EXTENT_MM = 25.0  # less than one vertebra
MAX_EXTENT_MM = 3000.0  # more than a person and the table
MAX_SLICE_MM = 10.0  # distance of slices; a vertebra is 15 to 30 mm high
MAX_HEADER_BYTES = 4096  # of an MHA file
MAX_COMPRESSION = 1100  # of deflate, at most 1032


@dataclass(frozen=True)
class ScanHeader:
    """Header of a scan whose voxels are not read yet.

    Attributes:
        path: file, or folder of a DICOM series.
        shape: voxels along I, J, K; K runs slowest in the file.
        affine: voxel to world (R, A, S, mm).
        dtype: dtype of the stored voxels.
        whole_read: whether its reader holds all stored voxels in memory while slabs are read.
        notes: warnings and repairs, one line each.
        image: NIfTI image without its voxels, for the header of the output.
        series: files of a DICOM series, ordered by position.
    """

    path: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    dtype: np.dtype
    whole_read: bool = False
    notes: tuple[str, ...] = ()
    image: nib.Nifti1Image | None = None
    series: DicomSeries | None = field(default=None, repr=False)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size in mm along I, J, K."""
        return spacing_of(self.affine)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))


def _ensure_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ValueError(f"{path}: is empty (0 bytes); copy it again")
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist; correct the path") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened ({error.strerror}); change its permissions") from None


def _nifti_header(path: Path, rules: GeometryRules) -> ScanHeader:
    try:
        image = nib.load(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as NIfTI ({last_line(error)}); copy or convert it again") from None
    if not isinstance(image, nib.Nifti1Image):
        raise ValueError(f"{path}: is {type(image).__name__}, not NIfTI; convert it")
    dtype = image.get_data_dtype()
    if dtype.fields is not None:
        raise ValueError(f"{path}: is a colour (RGB) image; use the original CT")
    if dtype.kind not in "iuf":
        raise ValueError(f"{path}: contains values of type {dtype}; expected a CT of integers or floats")
    declared = nifti_geometry(path, image, rules)
    affine = declared.affine(image.affine)
    if declared.assumed is not None:  # the mask declares what was assumed; its file does not
        stored = affine.copy()
        stored[:3] /= declared.mm
        image.set_sform(stored, 1)
        image.set_qform(stored, 1)
    shape = volume_shape(image.shape)
    return ScanHeader(str(path), shape, affine, dtype, notes=declared.notes, image=image)  # type: ignore[arg-type]


def _itk_header(path: Path, rules: GeometryRules) -> ScanHeader:
    import itk

    declared = itk_geometry(path, rules)
    try:
        io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        io.SetFileName(str(path))
        io.ReadImageInformation()
    except Exception as error:
        raise ValueError(f"{path}: cannot be read ({last_line(error)}); copy or convert it again") from None
    if io.GetNumberOfComponents() != 1:
        raise ValueError(f"{path}: contains {io.GetNumberOfComponents()} values per voxel, such as RGB; use the original CT")
    dimensions = io.GetNumberOfDimensions()
    shape = volume_shape([int(io.GetDimensions(d)) for d in range(dimensions)])
    matrix = np.eye(4)
    if dimensions >= 3:
        for d in range(3):
            matrix[:3, d] = np.array(io.GetDirection(d)[:3]) * io.GetSpacing(d)
            matrix[d, 3] = io.GetOrigin(d)
    kinds = {"double": "f8", "float": "f4", "unsigned_char": "u1", "char": "i1", "unsigned_short": "u2", "short": "i2"}
    dtype = np.dtype(kinds.get(io.GetComponentTypeAsString(io.GetComponentType()), "i4"))
    affine = declared.affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)  # ITK's axes run to left and posterior
    return ScanHeader(str(path), shape, affine, dtype, whole_read=True, notes=declared.notes)  # type: ignore[arg-type]


def _check_surplus(header: ScanHeader) -> None:
    """Refuse an MHA file with a few bytes more than its voxels: a line of its header lies among them, and they are shifted.

    Raises:
        ValueError: one line with file and number of bytes.
    """
    path = Path(header.path)
    if file_suffix(path) != ".mha":
        return
    with path.open("rb") as file:
        start = file.read(MAX_HEADER_BYTES)
    match = re.search(rb"(?im)^\s*ElementDataFile\s*=\s*LOCAL[^\n]*\n", start)
    if match is None or re.search(rb"(?im)^\s*(CompressedData\s*=\s*True|BinaryData\s*=\s*False)", start[: match.start()]):
        return
    surplus = path.stat().st_size - match.end() - header.voxels * header.dtype.itemsize
    if 0 < surplus < MAX_HEADER_BYTES:
        raise ValueError(f"{path}: has {surplus} bytes more than its voxels, so they may be shifted; convert it again")


def _check_size(header: ScanHeader) -> None:
    """Refuse a NIfTI file that cannot hold the voxels of its header, before memory for them is reserved.

    Raises:
        ValueError: one line with file, both sizes and remedy.
    """
    if header.image is None:
        _check_surplus(header)
        return
    stored, expected = Path(header.path).stat().st_size, header.voxels * header.dtype.itemsize
    if expected > stored * (MAX_COMPRESSION if header.path.lower().endswith(".gz") else 1):
        shown = " x ".join(map(str, header.shape))
        raise ValueError(
            f"{header.path}: has {stored} bytes, too few for the {shown} voxels of its header; it is truncated or damaged, "
            "copy it again"
        )


def _check_extents(header: ScanHeader, require_volume: bool) -> None:
    """Refuse a scan that is larger than a person, smaller than a vertebra, or of slices further apart than one.

    Raises:
        ValueError: one line with file, size and remedy.
    """
    extents = np.array(header.shape) * header.spacing
    shown = " x ".join(f"{e:.0f}" if e >= 10 else f"{e:.3g}" for e in extents)
    if extents.max() > MAX_EXTENT_MM and np.isfinite(extents).all():
        raise ValueError(
            f"{header.path}: covers {shown} mm by its header, more than {MAX_EXTENT_MM:.0f} mm; correct its spacing, or its unit"
        )
    if not require_volume:
        return
    if extents.min() < MIN_EXTENT_MM:
        raise ValueError(
            f"{header.path}: covers only {shown} mm, a scout or a fragment; must be at least {MIN_EXTENT_MM:.0f} mm each way, so "
            "choose another scan, or correct its spacing, or its unit"
        )
    if header.spacing.max() > MAX_SLICE_MM:
        raise ValueError(
            f"{header.path}: its slices are {header.spacing.max():.1f} mm apart; must be at most {MAX_SLICE_MM:.0f} mm, so that "
            "each vertebra is on several, so choose a thinner reconstruction"
        )


def read_header(
    path: str | Path, require_volume: bool = True, rules: GeometryRules = DEFAULT_RULES, parts: Sequence[str] = ()
) -> ScanHeader:
    """Read the header of a scan without its voxels, and refuse a scan that cannot be segmented.

    Args:
        path: NIfTI, NRRD or MHA file, or the folder of one DICOM series.
        require_volume: whether a single slice or a few slices, such as a scout, are refused.
        rules: assumed orientation and tolerance of positions.
        parts: folders with the other slices of a DICOM series.

    Raises:
        ValueError: one line with path, value and remedy.
    """
    try:
        return _read_header(path, require_volume, rules, parts)
    except MemoryError:
        raise
    except Exception as error:  # libraries raise errors of many kinds for fields that no writer sets
        if isinstance(error, ValueError) and str(path) in str(error) and "\n" not in str(error):
            raise
        raise ValueError(f"{path}: its header is damaged ({last_line(error)}); copy or convert it again") from None


def _read_header(path: str | Path, require_volume: bool, rules: GeometryRules, parts: Sequence[str]) -> ScanHeader:
    """Read the header of a scan without its voxels, and refuse a scan that cannot be segmented.

    Args:
        path: NIfTI, NRRD or MHA file, or the folder of one DICOM series.
        require_volume: whether a single slice or a few slices, such as a scout, are refused.
        rules: assumed orientation, and tolerance of the positions of DICOM slices.
        parts: folders with the other slices of a DICOM series.

    Raises:
        ValueError: one line with path, value and remedy.
    """
    source = Path(path)
    if source.is_dir():
        series = find_series(source, rules, parts)
        whole, dtype = series.multiframe is not None, np.dtype(np.int16 if series.multiframe is None else np.float32)
        header = ScanHeader(str(source), series.shape, series.affine, dtype, whole, tuple(series.notes), series=series)
    elif file_suffix(source) in VOLUMES:
        _ensure_readable(source)
        header = (_nifti_header if file_suffix(source) in NIFTI else _itk_header)(source, rules)
    else:
        raise ValueError(f"{source}: is not a scan; expected one of {', '.join(VOLUMES)} or the folder of a DICOM series")
    if len(header.shape) != 3 or min(header.shape) < 1:
        raise ValueError(f"{source}: has shape {header.shape}; expected one volume of three dimensions")
    if require_volume and min(header.shape) < 2:
        raise ValueError(f"{source}: has shape {header.shape}, a single slice; expected a whole scan")
    _check_size(header)
    _check_extents(header, require_volume)
    image = header.image
    if image is None:
        image = nib.Nifti1Image(np.broadcast_to(np.uint8(0), header.shape), header.affine)
    issues = geometry_issues(header.path, image)
    for issue in issues:
        if issue.severity == "error":
            raise ValueError(issue.line)
    return dataclasses.replace(header, notes=(*header.notes, *(i.line for i in issues)))
