# SPDX-License-Identifier: Apache-2.0
"""A CT as it is stored: its header at once, its voxels slab by slab as 16-bit HU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from .dicom import SeriesFiles, find_series, read_slabs
from .formats import NIFTI, VOLUMES, ending
from .image_checks import geometry_issues, value_issues

SLAB_BYTES = 16 * 2**20
MIN_EXTENT_MM = 25.0  # less than one vertebra
HU_RANGE = (-32768, 32767)


@dataclass(frozen=True)
class ScanHeader:
    """What is known of a scan before its voxels are read.

    Attributes:
        path: file, or folder of a DICOM series.
        shape: voxels along I, J, K; K runs slowest in the file.
        affine: voxel to world (R, A, S, mm).
        dtype: of the stored voxels.
        whole_read: whether the library that reads it holds the whole scan as stored while it does.
        notes: what was noticed or repaired, a line each.
        image: NIfTI image without its voxels, for the header of the output.
        series: files of a DICOM series in order.
    """

    path: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    dtype: np.dtype
    whole_read: bool = False
    notes: tuple[str, ...] = ()
    image: nib.Nifti1Image | None = None
    series: SeriesFiles | None = field(default=None, repr=False)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size in mm along I, J, K."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _openable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ValueError(f"{path}: is empty (0 bytes); copy it again")
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist; correct the path") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened ({error.strerror}); change its permissions") from None


def _nifti_header(path: Path) -> ScanHeader:
    try:
        image = nib.load(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as NIfTI ({_reason(error)}); copy or convert it again") from None
    if not isinstance(image, nib.Nifti1Image):
        raise ValueError(f"{path}: is {type(image).__name__}, not NIfTI; convert it")
    dtype = image.get_data_dtype()
    if dtype.fields is not None:
        raise ValueError(f"{path}: holds colours; give the CT itself")
    if dtype.kind not in "iuf":
        raise ValueError(f"{path}: holds values of type {dtype}; give a CT of whole numbers or floats")
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if image.get_sform(coded=True)[1] == 0 and image.get_qform(coded=True)[1] == 0:
        raise ValueError(
            f"{path}: says nothing of its orientation (sform and qform are unset), and an affine is never made up; "
            "convert the scan again from its DICOM files"
        )
    return ScanHeader(str(path), shape, np.asarray(image.affine, np.float64), dtype, image=image)  # type: ignore[arg-type]


def _itk_header(path: Path) -> ScanHeader:
    import itk

    try:
        io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        io.SetFileName(str(path))
        io.ReadImageInformation()
    except Exception as error:
        raise ValueError(f"{path}: cannot be read ({_reason(error)}); copy or convert it again") from None
    if io.GetNumberOfComponents() != 1:
        raise ValueError(
            f"{path}: holds {io.GetNumberOfComponents()} values a voxel, such as colours; give the CT itself"
        )
    number = io.GetNumberOfDimensions()
    shape = [int(io.GetDimensions(d)) for d in range(number)]
    matrix = np.eye(4)
    if number >= 3:
        for d in range(3):
            matrix[:3, d] = np.array(io.GetDirection(d)[:3]) * io.GetSpacing(d)
            matrix[d, 3] = io.GetOrigin(d)
    kinds = {"double": "f8", "float": "f4", "unsigned_char": "u1", "char": "i1", "unsigned_short": "u2", "short": "i2"}
    dtype = np.dtype(kinds.get(io.GetComponentTypeAsString(io.GetComponentType()), "i4"))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return ScanHeader(str(path), tuple(shape), affine, dtype, whole_read=True)  # type: ignore[arg-type]


def read_header(path: str | Path, whole: bool = True) -> ScanHeader:
    """Read what is known of a scan without its voxels, and refuse what cannot be segmented.

    Args:
        path: NIfTI, NRRD or MHA file, or the folder of one DICOM series.
        whole: whether a single slice or a few slices, such as a scout, are refused.

    Raises:
        ValueError: one line with path, value and remedy.
    """
    source = Path(path)
    if source.is_dir():
        series = find_series(source)
        header = ScanHeader(
            str(source), series.shape, series.affine, np.dtype(np.int16), notes=tuple(series.notes), series=series
        )
    elif ending(source) in VOLUMES:
        _openable(source)
        header = _nifti_header(source) if ending(source) in NIFTI else _itk_header(source)
    else:
        raise ValueError(f"{source}: is no scan; give one of {', '.join(VOLUMES)} or the folder of a DICOM series")
    if len(header.shape) != 3 or min(header.shape) < 1:
        raise ValueError(f"{source}: has shape {header.shape}; give one volume of three dimensions")
    if whole and min(header.shape) < 2:
        raise ValueError(f"{source}: has shape {header.shape}, a single slice; give a whole scan")
    extents = np.array(header.shape) * header.spacing
    if whole and extents.min() < MIN_EXTENT_MM:
        shown = " x ".join(f"{e:.0f}" for e in extents)
        raise ValueError(
            f"{source}: shows only {shown} mm, a scout or a fragment; at least {MIN_EXTENT_MM:.0f} mm each way are needed"
        )
    fallback_dataset = nib.Nifti1Image(np.broadcast_to(np.uint8(0), header.shape), header.affine)
    found = geometry_issues(header.path, header.image if header.image is not None else fallback_dataset)
    for finding in found:
        if finding.severity == "error":
            raise ValueError(finding.line)
    return ScanHeader(**{**header.__dict__, "notes": (*header.notes, *(f.line for f in found))})


def _nifti_slabs(header: ScanHeader) -> Iterator[NDArray]:
    image = header.image
    assert image is not None
    proxy: Any = image.dataobj
    i, j, k = header.shape
    bytes_per_slice = i * j * header.dtype.itemsize
    step = max(SLAB_BYTES // bytes_per_slice, 1)
    slope, inter = float(proxy.slope), float(proxy.inter)
    with ImageOpener(header.path) as file:
        file.seek(proxy.offset)
        for start in range(0, k, step):
            wanted = min(step, k - start) * bytes_per_slice
            raw = file.read(wanted)
            if len(raw) < wanted:
                done = start + len(raw) // bytes_per_slice
                raise ValueError(f"{header.path}: ends after {done} of {k} slices; it is truncated, copy it again")
            slab = np.frombuffer(raw, header.dtype).reshape(-1, j, i)
            yield slab if (slope, inter) == (1.0, 0.0) else slab * np.float32(slope) + np.float32(inter)
        while file.read(1 << 20):  # past the last voxel gzip compares its checksum
            pass


def _itk_slabs(header: ScanHeader) -> Iterator[NDArray]:
    import itk

    try:
        array = np.asarray(itk.array_view_from_image(image := itk.imread(header.path)))
    except Exception as error:
        raise ValueError(f"{header.path}: cannot be read ({_reason(error)}); copy it again") from None
    i, j, k = header.shape
    array = array.reshape(k, j, i)
    step = max(SLAB_BYTES // (i * j * array.itemsize), 1)
    for start in range(0, k, step):
        yield array[start : start + step]
    del array, image


def hu_slabs(header: ScanHeader) -> Iterator[NDArray[np.int16]]:
    """Voxels in HU, slab by slab along K, each (K, J, I), int16.

    Raises:
        ValueError: one line; truncated data, NaN.
    """
    source = (
        read_slabs(header.series)
        if header.series is not None
        else (_nifti_slabs(header) if ending(header.path) in NIFTI else _itk_slabs(header))
    )
    try:
        for slab in source:
            if slab.dtype == np.int16:
                yield slab
                continue
            if slab.dtype.kind == "f" and not np.isfinite(slab).all():
                raise ValueError(
                    f"{header.path}: holds NaN or infinite values; replace them by -1024 (air) or leave the case out"
                )
            yield np.rint(np.clip(slab, *HU_RANGE)).astype(np.int16)
    except ValueError:
        raise
    except Exception as error:  # gzip, zlib and ITK have exceptions of their own for damaged files
        raise ValueError(
            f"{header.path}: cannot be read ({_reason(error)}); it may be truncated, copy it again"
        ) from None


class Scan:
    """Voxels of a scan in memory or in a temporary file, given out as slabs.

    Args:
        header: of the scan.
        spool: file that takes the voxels when memory is short; it is removed by ``close``. None keeps them in memory.
        expect_hu: whether values that are no HU are refused.
        progress: called with the number of slices read.
        is_mask: whether the values are labels, of which one alone may fill the volume.

    Raises:
        ValueError: one line that says what is wrong with the voxels.
    """

    def __init__(
        self,
        header: ScanHeader,
        spool: Path | None = None,
        expect_hu: bool = True,
        progress: Callable[[int], None] | None = None,
        is_mask: bool = False,
    ) -> None:
        self.header, self._spool = header, spool
        i, j, k = header.shape
        self._voxels: NDArray[np.int16] | None = np.empty((k, j, i), np.int16) if spool is None else None
        low, high, done = HU_RANGE[1], HU_RANGE[0], 0
        try:
            file = spool.open("wb") if spool is not None else None
            for slab in hu_slabs(header):
                low, high = min(low, int(slab.min())), max(high, int(slab.max()))
                if file is not None:
                    slab.tofile(file)
                else:
                    self._voxels[done : done + len(slab)] = slab  # type: ignore[index]
                done += len(slab)
                if progress is not None:
                    progress(done)
            if file is not None:
                file.close()
            if done != k:
                raise ValueError(f"{header.path}: holds {done} of {k} slices; copy it again")
            self.range = (low, high)
            for finding in [] if is_mask else value_issues(header.path, np.array([low, high]), expect_hu):
                if finding.severity == "error":
                    raise ValueError(finding.line)
        except BaseException:
            self.close()
            raise

    def slab(self, start: int, stop: int) -> NDArray[np.int16]:
        """Slices ``start`` to ``stop`` (K, J, I)."""
        if self._voxels is not None:
            return self._voxels[start:stop]
        assert self._spool is not None
        i, j, _ = self.header.shape
        count = (stop - start) * i * j
        return np.fromfile(self._spool, np.int16, count, offset=start * i * j * 2).reshape(-1, j, i)

    def close(self) -> None:
        """Give memory and the temporary file back."""
        self._voxels = None
        if self._spool is not None and self._spool.exists():
            os.unlink(self._spool)
