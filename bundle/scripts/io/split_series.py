# SPDX-License-Identifier: Apache-2.0
"""DICOM series whose slices lie in several folders, each of which would be read as a scan of its own that ends early."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dicom_series import Header, is_dicom, read_headers

MAX_GAP = 3.0  # of the distance of the slices, between the parts of a series
SAME_DIRECTION = 1e-3  # largest difference of the elements of ImageOrientationPatient
SAME_LINE_MM = 1.0  # largest distance in plane


def _series_uid(folder: Path) -> str:
    """SeriesInstanceUID of the first DICOM file of a folder, or "" without one."""
    import pydicom

    first = next((f for f in islice(sorted(folder.iterdir()), 200) if not f.name.startswith(".") and is_dicom(f)), None)
    if first is None:
        return ""
    header = pydicom.dcmread(first, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    return str(header.get("SeriesInstanceUID", ""))


def _slices(headers: Iterable[tuple[Path, Header]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orientation (6,) and positions (N, 3), in mm."""
    tags = [(h.ImageOrientationPatient, h.ImagePositionPatient) for _, h in headers]
    return np.asarray(tags[0][0], np.float64), np.asarray([position for _, position in tags], np.float64)


def _continue_each_other(one: tuple[NDArray, NDArray], other: tuple[NDArray, NDArray]) -> bool:
    """True for slices that follow those of the other folder on one line; copies, and other patients, overlap or lie elsewhere."""
    (rows, first), (other_rows, second) = one, other
    if np.abs(rows - other_rows).max() > SAME_DIRECTION:
        return False
    normal = np.cross(rows[:3], rows[3:])
    a, b = np.sort(first @ normal), np.sort(second @ normal)
    below, above = (a, b) if a[0] < b[0] else (b, a)
    steps = np.diff(below if len(below) > 1 else above)
    gap = above[0] - below[-1]
    in_plane = (first.mean(axis=0) - second.mean(axis=0)) - normal * (first.mean(axis=0) - second.mean(axis=0)).dot(normal)
    return bool(len(steps) and 0 < gap <= MAX_GAP * np.median(steps) and np.linalg.norm(in_plane) <= SAME_LINE_MM)


def parts_of_series(folders: Sequence[str]) -> dict[str, list[str]]:
    """Folders that hold parts of one series: equal SeriesInstanceUID, and slices that follow each other on one line.

    An equal UID alone is not enough, as anonymisation may repeat it. What cannot be read is left to the reader of its folder.

    Args:
        folders: folders of DICOM series.

    Returns:
        For every folder that is a part, the folders of the other parts.
    """
    by_uid: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        try:
            by_uid[_series_uid(Path(folder))].append(folder)
        except Exception:  # of a damaged file, which its reader names
            continue
    found: dict[str, list[str]] = defaultdict(list)
    for uid, together in by_uid.items():
        if not uid or len(together) < 2:
            continue
        slices = {}
        for folder in together:
            try:
                slices[folder] = _slices(read_headers(folder))
            except Exception:  # likewise
                continue
        for one, other in combinations(slices, 2):
            if _continue_each_other(slices[one], slices[other]):
                found[one].append(other)
                found[other].append(one)
    return dict(found)
