# SPDX-License-Identifier: Apache-2.0
"""Streaming writer of NIfTI files: slice by slice, on the grid of a scan."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_write
from .fast_gzip import compressed
from .scan_header import ScanHeader

LABEL_COLOURS = ((0.0, 0.0, 0.0, 0.0), (1.0, 0.62, 0.11, 1.0), (0.22, 0.83, 0.33, 1.0), (0.3, 0.6, 1.0, 1.0))
EXTENSION_CODE = 0  # ignored by every reader; TotalSegmentator stores its names in an extension of this code


def label_table(names: Mapping[int, str]) -> nib.nifti1.Nifti1Extension:
    """Extension of a NIfTI header with the names and colours of label values, in the XML of Connectome Workbench."""
    rows = []
    for value, name in names.items():
        red, green, blue, alpha = LABEL_COLOURS[value % len(LABEL_COLOURS)]
        rows.append(
            f'<Label Key="{value}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="{alpha}"><![CDATA[{escape(name)}]]></Label>'
        )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
        + "".join(rows)
        + "</LabelTable><VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation></CaretExtension>"
    )
    return nib.nifti1.Nifti1Extension(EXTENSION_CODE, text.encode())


def _header(scan: ScanHeader, dtype: type, description: str, names: Mapping[int, str] | None) -> nib.Nifti1Header:
    empty = nib.Nifti1Image(np.broadcast_to(np.zeros((), dtype), scan.shape), scan.affine)
    header = empty.header
    if scan.image is not None:
        for read, write in (("get_sform", header.set_sform), ("get_qform", header.set_qform)):
            matrix, code = getattr(scan.image, read)(coded=True)
            write(matrix, int(code))
        if scan.image.get_qform(coded=True)[0] is None:  # then readers take the voxel sizes of the sform, in its unit
            header.set_zooms(np.linalg.norm(scan.image.get_sform()[:3, :3], axis=0))
        unit = scan.image.header.get_xyzt_units()[0]  # of these matrices, so that scan and mask coincide in every program
    else:
        header.set_sform(scan.affine, 1)
        header.set_qform(scan.affine, 1)
        unit = "mm"
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_xyzt_units("mm" if unit == "unknown" else unit)
    header["descrip"] = description.encode()[:79]
    header["magic"] = b"n+1"
    if names:
        header.set_intent("label", name="fracture")
        header.extensions.append(label_table(names))
    return header


class SliceWriter:
    """Writer of the slices of a volume in increasing order; skipped slices are zero."""

    def __init__(self, file: gzip.GzipFile, scan: ScanHeader, dtype: type) -> None:
        self._file, self._dtype, self._next = file, np.dtype(dtype), 0
        i, j, self._count = scan.shape
        self._empty = bytes(i * j * self._dtype.itemsize)

    def _skip(self, until: int) -> None:
        for _ in range(self._next, until):
            self._file.write(self._empty)
        self._next = until

    def write(self, index: int, plane: NDArray) -> None:
        """Write slice ``index``, (J, I).

        Raises:
            ValueError: for a slice at or before the last one written.
        """
        if index < self._next:
            raise ValueError(f"slice {index} follows slice {self._next - 1}; slices must be written in increasing order")
        self._skip(index)
        self._file.write(np.ascontiguousarray(plane, self._dtype).tobytes())
        self._next += 1

    def finish(self) -> None:
        """Write the remaining slices as zero."""
        self._skip(self._count)


@contextmanager
def open_slice_writer(
    path: Path, scan: ScanHeader, dtype: type = np.uint8, description: str = "", names: Mapping[int, str] | None = None
) -> Iterator[SliceWriter]:
    """Open a compressed NIfTI file for writing slices; it appears under its name only when complete.

    Args:
        path: file to write, ``.nii.gz``.
        scan: scan whose grid is copied: shape, affine, and for NIfTI sform and qform with their codes.
        dtype: dtype of the voxels.
        description: up to 79 characters for the header.
        names: names of the label values.
    """
    header = _header(scan, dtype, description, names)
    with atomic_write(path) as temporary, temporary.open("wb") as raw, compressed(raw) as file:
        stored_header = BytesIO()
        header.write_to(stored_header)
        file.write(stored_header.getvalue().ljust(int(header["vox_offset"]), b"\0"))
        slices = SliceWriter(file, scan, dtype)
        yield slices
        slices.finish()
