# SPDX-License-Identifier: Apache-2.0
"""Given masks of vertebra instances: paired with the scans by name, and read on their grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..data.case_files import file_of_case, find_case_files
from ..io.case_naming import case_name
from ..io.ct_volume import Scan
from ..io.geometry_rules import DEFAULT_RULES, GeometryRules
from ..io.label_maps import read_label_map
from ..io.scan_header import ScanHeader, read_header
from ..io.vertebra_folder import vertebra_folder


def pair_vertebrae(images: Sequence[str], source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Mask of every scan by the name of its case, as ``data folder`` and ``evaluate score`` pair them.

    Args:
        images: files of the scans, or folders of DICOM series.
        source: mask or folder of TotalSegmentator of a single scan; or a folder of masks, or of such folders.

    Returns:
        Masks by scan, and one reason for each scan without one.

    Raises:
        InputError: for a source that does not exist, or one mask for several scans.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(
            f"{source}: no such mask or folder; expected a mask of vertebrae, or a folder of masks named like the scans"
        )
    own = vertebra_folder(path)
    if path.is_file() or own is not None:
        if len(images) == 1:
            return {images[0]: str(own or path)}, {}
        if path.is_file():
            raise InputError(f"{source}: is the mask of one scan, and there are {len(images)}; name the folder of their masks")
    found = find_case_files(path, "vertebrae")
    masks, reasons = {}, {}
    for image in images:
        mask = file_of_case(found.files, image)
        name = case_name(image)
        if mask is not None:
            masks[image] = str(mask)
        else:
            twice = next((line for line in found.problems if f"case {name}," in line), None)
            shown = ", ".join(sorted(found.files)[:3]) or "none"
            reasons[image] = (
                twice or f"has no mask of vertebrae called {name} in {source} (there: {shown}); rename it, or leave out the scan"
            )
    return masks, reasons


class _MaskScan(Scan):
    """Labels (K, J, I) in memory with the interface of ``Scan``."""

    def __init__(self, header: ScanHeader, labels: np.ndarray) -> None:
        self.header, self._file = header, None
        self._voxels = np.ascontiguousarray(labels.transpose(2, 1, 0)).astype(np.int16)
        self.range = (int(labels.min()), int(labels.max()))


def mask_bytes(path: str | None, header: ScanHeader) -> tuple[int, int]:
    """Bytes of a given mask in memory, and with the voxels in temporary files; 0 and 0 without one."""
    if path is None:
        return 0, 0
    held = 2 * header.voxels
    # Of one mask per vertebra the label map and one of them in memory, too, before they are converted.
    return (held + 2 * header.voxels,) * 2 if vertebra_folder(path) is not None else (held, 0)


def read_given_vertebrae(
    path: str | None, header: ScanHeader, rules: GeometryRules = DEFAULT_RULES, spool: Path | None = None
) -> Scan | None:
    """Mask of vertebra instances on the grid of a scan, or None without one.

    Args:
        path: file that ``read_header`` reads, or folder of TotalSegmentator.
        header: header of the scan.
        rules: those of the scan.
        spool: folder of a temporary file that holds the labels; None holds them in memory, as those of a folder always are.

    Raises:
        ValueError: for a mask that cannot be read, or has another grid.
    """
    if path is None:
        return None
    folder = vertebra_folder(path)
    if folder is not None:
        image = read_label_map(folder)
        mask = ScanHeader(str(folder), tuple(image.shape), image.affine, np.dtype(np.uint8))
    else:
        mask = read_header(path, require_volume=False, rules=rules)
    if mask.shape != header.shape or grid_offset(header.shape, mask.affine, header.affine) > AFFINE_TOLERANCE_MM:
        raise ValueError(f"{path}: has a different grid from {header.path}; resample it to the grid of its scan")
    return Scan(mask, spool, is_mask=True) if folder is None else _MaskScan(mask, np.asarray(image.dataobj))
