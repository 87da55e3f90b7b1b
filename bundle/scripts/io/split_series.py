# SPDX-License-Identifier: Apache-2.0
"""DICOM series whose slices lie in several folders, each of which would be read as a scan of its own that ends early."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dicom_headers import Header, is_dicom, read_headers

MAX_GAP = 3.0  # of the distance of the slices, between the parts of a series
MIN_STEP = 0.1  # of the distance of the slices; nearer ones are at one position
SAME_DIRECTION = 1e-3  # largest difference of the elements of ImageOrientationPatient
SAME_LINE_MM = 1.0  # largest distance in plane
MAX_SIBLINGS = 200  # folders that are opened in the search for the other parts of a series
# Tags that an anonymiser changes per patient although it may write one SeriesInstanceUID into every file.
IDENTITY = ("SeriesInstanceUID", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")


@dataclass(frozen=True)
class _Part:
    """Slices of one folder: orientation (6,), pixel spacing (2,), positions (N, 3) in mm, SOPInstanceUIDs (N,)."""

    identity: tuple[str, ...]
    orientation: NDArray[np.float64]
    spacing: NDArray[np.float64]
    positions: NDArray[np.float64]
    uids: tuple[str, ...]

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[:3], self.orientation[3:])


@dataclass
class SplitSeries:
    """Folders that hold parts of one series.

    Attributes:
        joined: groups of folders that are read as one scan, in order of their names.
        refused: reason with a remedy for every folder with a slice that differs from one of another folder at the same position.
    """

    joined: list[list[str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def _series_uid(folder: Path) -> str:
    """SeriesInstanceUID of the first DICOM file of a folder, or "" without one."""
    import pydicom

    first = next((f for f in islice(sorted(folder.iterdir()), 200) if not f.name.startswith(".") and is_dicom(f)), None)
    if first is None:
        return ""
    header = pydicom.dcmread(first, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    return str(header.get("SeriesInstanceUID", ""))


def _part(headers: Sequence[tuple[Path, Header]]) -> _Part:
    slices = [h for _, h in headers if "LOCALIZER" not in [str(v).upper() for v in h.get("ImageType", [])]]
    first = slices[0]
    if len({str(h.get("SeriesInstanceUID", "")) for h in slices}) > 1:
        raise ValueError("several series in one folder, which its reader refuses")
    return _Part(
        tuple(str(first.get(tag, "")) for tag in IDENTITY),
        np.asarray(first.ImageOrientationPatient, np.float64),
        np.asarray(first.PixelSpacing, np.float64),
        np.asarray([h.ImagePositionPatient for h in slices], np.float64),
        tuple(str(h.get("SOPInstanceUID", "")) for h in slices),
    )


def _comparable(one: _Part, other: _Part) -> bool:
    """True for slices of one patient, orientation and pixel grid."""
    return (
        one.identity == other.identity
        and bool(np.abs(one.orientation - other.orientation).max() <= SAME_DIRECTION)
        and np.allclose(one.spacing, other.spacing, rtol=1e-3)
    )


def _one_line(parts: Sequence[_Part]) -> bool:
    """True where the slices of all parts, copies counted once, follow each other on one line without a collision."""
    normal = parts[0].normal
    unique = {(uid, *np.round(p, 3)): p for part in parts for uid, p in zip(part.uids, part.positions, strict=True)}
    positions = np.asarray(list(unique.values()))
    along = positions @ normal
    order = np.argsort(along)
    positions, along = positions[order], along[order]
    steps = np.diff(along)
    step = float(np.median(steps)) if len(steps) else 0.0
    if step <= 0 or steps.min() < MIN_STEP * step or steps.max() > MAX_GAP * step:
        return False
    number = (along - along[0]) / (along[-1] - along[0])
    beside = positions - positions[0] - number[:, None] * (positions[-1] - positions[0])  # zero on the line of a tilted gantry
    tilt = np.linalg.norm(np.cross(positions[-1] - positions[0], normal)) / (along[-1] - along[0])
    return bool(np.linalg.norm(beside, axis=1).max() <= SAME_LINE_MM + step * tilt and tilt <= 1.0)


def _collide(one: _Part, other: _Part) -> bool:
    """True where some, not all, slices of two parts are at one position and are no copies.

    Folders with equal positions throughout are whole scans of their own, such as two phases, or two patients with one UID.
    """
    normal = one.normal
    a, b = np.sort(one.positions @ normal), np.sort(other.positions @ normal)
    step = float(np.median(np.diff(a))) if len(a) > 1 else 0.0
    if step <= 0 or not one.identity[3]:  # without a frame of reference, equal numbers need not be one place
        return False
    nearest = np.abs(a[:, None] - b[None, :]).min(axis=1)
    same = nearest < MIN_STEP * step
    return bool(same.any() and not (same.all() and len(a) == len(b)) and not set(one.uids) & set(other.uids))


def _groups(parts: dict[str, _Part]) -> list[list[str]]:
    """Folders of one series as groups of folders whose slices follow each other."""
    names = sorted(parts)
    if len(names) > 1 and all(_comparable(parts[names[0]], parts[n]) for n in names[1:]) and _one_line([*parts.values()]):
        return [names]
    group = {name: {name} for name in names}
    for one, other in combinations(names, 2):
        if _comparable(parts[one], parts[other]) and _one_line([parts[one], parts[other]]):
            merged = group[one] | group[other]
            group.update(dict.fromkeys(merged, merged))
    return [sorted(g) for g in {frozenset(g) for g in group.values()} if len(g) > 1]


def find_split_series(folders: Iterable[str]) -> SplitSeries:
    """Folders that hold parts of one series: equal SeriesInstanceUID, patient and geometry, and slices on one line.

    An equal UID alone is not enough, as anonymisation may repeat it. What cannot be read is left to the reader of its folder.

    Args:
        folders: folders of DICOM series.
    """
    by_uid: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        try:
            by_uid[_series_uid(Path(folder))].append(folder)
        except Exception:  # of a damaged file, which its reader names
            continue
    found = SplitSeries()
    for uid, together in by_uid.items():
        if not uid or len(together) < 2:
            continue
        parts = {}
        for folder in together:
            try:
                part = _part(read_headers(folder))
            except Exception:  # likewise
                continue
            if len(set(part.uids)) == len(part.uids):  # else copies and other slices look alike
                parts[folder] = part
        groups = _groups(parts)
        found.joined += groups
        inside = {folder for group in groups for folder in group}
        for one, other in combinations(sorted(parts), 2):
            if not {one, other} <= inside and _comparable(parts[one], parts[other]) and _collide(parts[one], parts[other]):
                for this, that in ((one, other), (other, one)):
                    found.refused[this] = (
                        f"has other slices at positions of slices in {that}, which are of the same series; keep one phase"
                    )
    found.joined.sort()
    return found


def part_folders(folder: Path) -> list[Path]:
    """Folders below ``folder`` that hold one series together, where all of its content is that; else none.

    Args:
        folder: folder without DICOM files of its own, such as that of a series on a CD with a hundred files a folder.
    """
    try:
        entries = [f for f in sorted(folder.iterdir()) if not f.name.startswith(".")]
        below = [f for f in entries if f.is_dir()]
        if len(below) < 2 or any(f.is_file() and is_dicom(f) and f.name != "DICOMDIR" for f in entries[:MAX_SIBLINGS]):
            return []
        uid = _series_uid(below[0])
        if not uid or any(_series_uid(f) != uid for f in below[1:]):
            return []
    except Exception:  # a damaged file or a folder that cannot be opened, which its reader names
        return []
    return below if find_split_series(map(str, below)).joined == [[str(f) for f in below]] else []


def other_parts(folder: Path) -> list[str]:
    """Folders beside ``folder`` with the other slices of its series; none where too many folders would have to be opened."""
    try:
        beside = [f for f in sorted(folder.resolve().parent.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    except OSError:
        return []
    if not 2 <= len(beside) <= MAX_SIBLINGS:
        return []
    own = str(folder.resolve())
    group = next((g for g in find_split_series(map(str, beside)).joined if own in g), [])
    return [f for f in group if f != own]


def counted(folders: Sequence[Path], files: Iterable[Path]) -> str:
    """Names of folders with their numbers of files, such as "a (500 files), b (120 files)"."""
    number: dict[Path, int] = defaultdict(int)
    for file in files:
        number[file.parent] += 1
    return ", ".join(f"{f.name} ({number[f]} files)" for f in folders)
