# SPDX-License-Identifier: Apache-2.0
"""DICOM series whose slices lie in several folders, each of which would be read as a scan of its own that ends early.

Folders that look alike and are not joined have a remark that names the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path

from .dicom_headers import TAGS, is_dicom, is_localizer, read_headers
from .series_parts import SERIES, Key, Part, collide, grouped, key_of, obstacle, part_of

MAX_PARTS = 50  # folders of one series; more are the scans of a cohort with one UID
MAX_SIBLINGS = 1000  # folders that are opened in the search for the other parts of a series
MAX_PROBED = 200  # files of a folder that are opened in the search for its first slice
MAX_NAMED = 3  # folders in a remark
REMEDY = "if they are one series, put all of its slices into one folder"


@dataclass
class SplitSeries:
    """Folders of which several hold slices of one SeriesInstanceUID.

    Attributes:
        joined: groups of folders that are read as one scan, in order of their names.
        refused: reason with a remedy for every folder with a slice that differs from one of another folder at the same position.
        apart: for every folder that looks like a part of a series and is not joined with all others, a remark that names these.
    """

    joined: list[list[str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)


def _folder_key(folder: Path) -> Key | None:
    """Key of the first slice of a folder that can be read; None without one or without a SeriesInstanceUID."""
    try:
        import pydicom

        files = (f for f in sorted(folder.iterdir()) if not f.name.startswith(".") and f.name != "DICOMDIR" and f.is_file())
        for file in islice(files, MAX_PROBED):
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS)) if is_dicom(file) else None
                if header is not None and not is_localizer(header):
                    key = key_of(header)
                    return key if key[SERIES] else None
            except Exception:  # of a damaged file, which the reader of its folder names
                continue
    except (ImportError, OSError):  # likewise
        pass
    return None


def _shown(folders: Sequence[str]) -> str:
    more = f" and {len(folders) - MAX_NAMED} more" if len(folders) > MAX_NAMED else ""
    return ", ".join(folders[:MAX_NAMED]) + more


def _sort_out(together: Sequence[str], found: SplitSeries) -> None:
    """Add the folders of one key to ``found``."""
    parts: dict[str, Part] = {}
    unread: list[str] = []
    for folder in together if len(together) <= MAX_PARTS else ():
        try:
            parts[folder] = part_of(read_headers(folder))
        except Exception:  # of damaged, incomplete or several series, which the reader of the folder names
            unread.append(folder)
    groups = grouped(parts)
    found.joined += [g for g in groups if len(g) > 1]
    for (one,), (other,) in combinations([g for g in groups if len(g) == 1], 2):
        if collide(parts[one], parts[other]):
            for this, that in ((one, other), (other, one)):
                found.refused[this] = (
                    f"has other slices at positions of slices in {that}, which are of the same series; keep one phase"
                )
    if len(together) > MAX_PARTS:
        why = f"more than {MAX_PARTS} folders have it"
    else:
        why = f"{_shown(unread)} cannot be read as one series" if unread else obstacle([parts[n] for n in sorted(parts)])
    for group in groups + [[f] for f in together if f not in parts]:
        others = [f for f in together if f not in group]
        text = f"has the SeriesInstanceUID of {_shown(others)}, which is not joined with it ({why}); {REMEDY}"
        found.apart.update(dict.fromkeys(group if others else (), text))


def find_split_series(folders: Iterable[str]) -> SplitSeries:
    """Folders that hold parts of one series.

    Joined are folders of one SeriesInstanceUID, patient, study, frame of reference, size, orientation and pixel spacing whose
    slices follow each other on one line by position and InstanceNumber. What cannot be read is left to the reader of its folder.

    Args:
        folders: folders of DICOM series.
    """
    by_key: dict[Key, list[str]] = defaultdict(list)
    for folder in folders:
        key = _folder_key(Path(folder))
        if key is not None:
            by_key[key].append(folder)
    found = SplitSeries()
    for together in by_key.values():
        if len(together) > 1:
            _sort_out(sorted(together), found)
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
        if not 2 <= len(below) <= MAX_PARTS:
            return []
        if any(f.is_file() and f.name != "DICOMDIR" and is_dicom(f) for f in entries[:MAX_PROBED]):
            return []
    except OSError:  # which its reader names
        return []
    key = _folder_key(below[0])
    if key is None or any(_folder_key(f) != key for f in below[1:]):
        return []
    return below if find_split_series(map(str, below)).joined == [[str(f) for f in below]] else []


def part_remarks(folders: Iterable[str | Path]) -> dict[str, str]:
    """Remark for every folder that is read alone although folders beside it may hold other slices of its series.

    Args:
        folders: folders of DICOM series; those beside each other are searched once.
    """
    by_parent: dict[Path, list[str]] = defaultdict(list)
    for folder in folders:
        by_parent[Path(folder).resolve().parent].append(str(folder))
    remarks: dict[str, str] = {}
    for parent, together in by_parent.items():
        keys = {_folder_key(Path(f)) for f in together} - {None}
        try:
            beside = [f for f in sorted(parent.iterdir()) if f.is_dir() and not f.name.startswith(".")] if keys else []
        except OSError:
            continue
        if len(beside) > MAX_SIBLINGS:
            text = f"the {len(beside)} folders in {parent} were not searched for other slices of its series"
            remarks.update((f, f"{f}: {text}") for f in together)
            continue
        found = find_split_series(str(f) for f in beside if len(beside) > 1 and _folder_key(f) in keys)
        for folder in together:
            own = str(Path(folder).resolve())
            others = [f for group in found.joined if own in group for f in group if f != own]
            text = f"other slices of its series are in {_shown(others)}; set input to {parent} to read them as one scan"
            reason = text if others else found.refused.get(own) or found.apart.get(own)
            if reason:
                remarks[folder] = f"{folder}: {reason}"
    return remarks


def counted(folders: Sequence[Path], files: Iterable[Path]) -> str:
    """Names of folders with their numbers of files, such as "a (500 files), b (120 files)"."""
    number: dict[Path, int] = defaultdict(int)
    for file in files:
        number[file.parent] += 1
    return ", ".join(f"{f.name} ({number[f]} files)" for f in folders)
