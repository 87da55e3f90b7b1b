# SPDX-License-Identifier: Apache-2.0
"""Voxels of a stored CT, slab by slab as 16-bit HU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from ..core.errors import last_line
from ..core.threads import prefetched
from .dicom import HU_RANGE, read_slabs
from .formats import NIFTI, file_suffix
from .hu_check import ValueHistogram
from .image_checks import histogram_issues
from .scan_header import ScanHeader

SLAB_BYTES = 16 * 2**20


def _nifti_slabs(header: ScanHeader) -> Iterator[NDArray]:
    image = header.image
    assert image is not None
    proxy: Any = image.dataobj
    i, j, k = header.shape
    bytes_per_slice = i * j * header.dtype.itemsize
    step = max(SLAB_BYTES // bytes_per_slice, 1)
    slope, intercept = float(proxy.slope), float(proxy.inter)
    with ImageOpener(header.path) as file:
        file.seek(proxy.offset)
        for start in range(0, k, step):
            size = min(step, k - start) * bytes_per_slice
            raw = file.read(size)
            if len(raw) < size:
                complete = start + len(raw) // bytes_per_slice
                raise ValueError(f"{header.path}: ends after {complete} of {k} slices; it is truncated, copy it again")
            slab = np.frombuffer(raw, header.dtype).reshape(-1, j, i)
            yield slab if (slope, intercept) == (1.0, 0.0) else slab * np.float32(slope) + np.float32(intercept)
        while file.read(1 << 20):  # past the last voxel gzip compares its checksum
            pass


def _itk_slabs(header: ScanHeader) -> Iterator[NDArray]:
    import itk

    try:
        array = np.asarray(itk.array_view_from_image(image := itk.imread(header.path)))
    except Exception as error:
        raise ValueError(f"{header.path}: cannot be read ({last_line(error)}); copy it again") from None
    i, j, k = header.shape
    array = array.reshape(k, j, i)
    step = max(SLAB_BYTES // (i * j * array.itemsize), 1)
    for start in range(0, k, step):
        yield array[start : start + step].copy()  # the image ends with this generator, before its last slab is used
    del array, image


def _stored_slabs(header: ScanHeader) -> Iterator[NDArray]:
    if header.series is not None:
        return read_slabs(header.series)
    return _nifti_slabs(header) if file_suffix(header.path) in NIFTI else _itk_slabs(header)


def hu_slabs(header: ScanHeader) -> Iterator[NDArray[np.int16]]:
    """Voxels in HU, slab by slab along K, each (K, J, I), int16.

    Raises:
        ValueError: one line; truncated data, NaN.
    """
    try:
        for slab in _stored_slabs(header):
            if slab.dtype == np.int16:
                yield slab
                continue
            if slab.dtype.kind == "f" and not np.isfinite(slab).all():
                raise ValueError(f"{header.path}: contains NaN or infinite values; replace them by -1024 (air) or exclude the case")
            yield np.rint(np.clip(slab, *HU_RANGE)).astype(np.int16)
    except Exception as error:  # gzip, zlib and ITK have exceptions of their own for damaged files
        if isinstance(error, ValueError) and header.path in str(error):
            raise
        raise ValueError(f"{header.path}: cannot be read ({last_line(error)}); it may be truncated, copy it again") from None


class Scan:
    """Voxels of a scan, held in memory or in a temporary file and returned as slabs.

    Args:
        header: header of the scan.
        spool: folder of a temporary file for the voxels when memory is short; None holds them in memory. The file has no name, so
            that nothing of it remains after ``close``, nor when the process is killed.
        expect_hu: whether values that are not HU are refused.
        progress: called with the number of slices read.
        is_mask: whether the values are labels, of which one alone may fill the volume.

    Attributes:
        range: smallest and largest voxel value.
        warnings: remarks on values that may not be HU, one line each.

    Raises:
        ValueError: one line about unreadable, missing or implausible voxels.
    """

    def __init__(
        self,
        header: ScanHeader,
        spool: Path | None = None,
        expect_hu: bool = True,
        progress: Callable[[int], None] | None = None,
        is_mask: bool = False,
    ) -> None:
        self.header = header
        self._file: IO[bytes] | None = None if spool is None else tempfile.TemporaryFile(dir=spool)  # noqa: SIM115
        i, j, k = header.shape
        self._voxels: NDArray[np.int16] | None = np.empty((k, j, i), np.int16) if spool is None else None
        histogram, done = ValueHistogram(header.voxels), 0
        try:
            file = self._file
            # Memory that is touched for the first time takes as long as decompression.
            for slab in prefetched(hu_slabs(header)):
                histogram.add(slab)
                if file is not None:
                    slab.tofile(file)
                else:
                    self._voxels[done : done + len(slab)] = slab  # type: ignore[index]
                done += len(slab)
                if progress is not None:
                    progress(done)
            if done != k:
                raise ValueError(f"{header.path}: contains {done} of {k} slices; copy it again")
            self.range = (int(histogram.low), int(histogram.high))
            self.warnings = () if is_mask else self._check(histogram, expect_hu)
        except BaseException:
            self.close()
            raise

    def _check(self, histogram: ValueHistogram, expect_hu: bool) -> tuple[str, ...]:
        """Warnings about the values; an error ends the scan, or is a warning where values need not be HU."""
        warnings = []
        for issue in histogram_issues(self.header.path, histogram, expect_hu=True):
            if issue.severity == "error" and (expect_hu or issue.code == "constant"):
                raise ValueError(issue.line)
            warnings.append(issue.line if expect_hu else f"accepted, as check_hu is false: {issue.line}")
        return tuple(warnings)

    def slab(self, start: int, stop: int) -> NDArray[np.int16]:
        """HU of slices ``start`` to ``stop``, (K, J, I)."""
        if self._voxels is not None:
            return self._voxels[start:stop]
        assert self._file is not None
        i, j, _ = self.header.shape
        self._file.seek(start * i * j * 2)
        return np.fromfile(self._file, np.int16, (stop - start) * i * j).reshape(-1, j, i)

    @property
    def in_memory(self) -> NDArray[np.int16] | None:
        """HU (K, J, I), or None when they are in a temporary file."""
        return self._voxels

    def close(self) -> None:
        """Free the memory and the temporary file."""
        self._voxels = None
        if self._file is not None:
            self._file.close()
