# SPDX-License-Identifier: Apache-2.0
"""Names of the outputs of scans: unique in the output folder, and stable from run to run by the content of the scan."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..io.detached_voxels import voxel_files
from ..io.formats import stem
from .discovery import Scans, parts_of, printable
from .inputs import shared_folder
from .joined_folders import input_hash, input_path, own_files, replaceable

CASES = "cases"  # folder of the records
DIGITS = 8  # of the SHA-256 of a scan, in the name of a scan whose name is taken
ITEMS = {"case", "case_path", "input", "input_stamp", "findings", "seconds", "memory_mib", "runtime"}  # of a whole record
REPEATED = "listed twice; its first entry is used"


def stamp(path: str, parts: Sequence[str] = ()) -> list[int]:
    """Number of files, total size and latest modification of a scan and its other folders; they change with its content."""
    files: list[Path] = []
    for source in map(Path, (path, *parts)):
        files += own_files(source) if source.is_dir() else [source, *voxel_files(source)]
    stats = [f.stat() for f in files]
    return [len(files), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]


def read_records(root: Path) -> dict[str, dict]:
    """Records of finished scans in an output folder, ``cases/*.json``, by name of the outputs; damaged ones are left out."""
    records = {}
    for path in sorted(root.rglob(f"{CASES}/*.json")):
        name = (path.parent.parent / path.stem).relative_to(root).as_posix()
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        whole = isinstance(record, dict) and record.keys() >= ITEMS and record["case_path"] == name
        if whole and isinstance(record["input_stamp"], list) and isinstance(record["findings"], list):
            records[name] = record
    return records


def scan_hash(case: Mapping[str, str]) -> str:
    """SHA-256 of the content of a scan, with that of its other folders or of the files of voxels that its header names."""
    files = [case["image"], *map(str, voxel_files(case["image"])), *parts_of(case)]
    digests = [input_hash(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass
class _Source:
    """Scan of this run."""

    case: dict[str, str]
    proposed: str

    @cached_property
    def path(self) -> str:
        return os.path.abspath(self.case["image"])

    @cached_property
    def stamp(self) -> list[int] | None:
        """Stamp, or None for a scan that cannot be opened."""
        try:
            return stamp(self.case["image"], parts_of(self.case))
        except OSError:
            return None

    @cached_property
    def sha256(self) -> str:
        """Hash of the content; empty for a scan that cannot be read."""
        try:
            return scan_hash(self.case)
        except OSError:
            return ""

    def is_content_of(self, record: Mapping, path: str) -> bool:
        """True where a record, of a scan at ``path``, was made from this content, wherever that lay."""
        stored = record["input_stamp"]
        if self.stamp is None or stored[:2] != self.stamp[:2]:
            return False  # by its size, before anything is hashed
        if stored[:3] == self.stamp and path == self.path:
            return True
        return bool(self.sha256) and record.get("input_sha256") == self.sha256


def _without_repeats(cases: Scans) -> None:
    """Remove scans that are listed twice, and name them."""
    seen: set[str] = set()
    kept = []
    for case in cases:
        path = os.path.abspath(case["image"])
        if "problem" not in case and path in seen:
            cases.unused.append((printable(case["image"]), REPEATED))
            continue
        seen.add(path)
        kept.append(case)
    cases[:] = kept


def _free_name(source: _Source, taken: Iterable[str]) -> str:
    """Proposed name where it is free; else with the hash of the content, and a number beside an identical scan."""
    used = {name.casefold() for name in taken}

    def candidates() -> Iterator[str]:
        yield source.proposed
        named = f"{source.proposed}_{source.sha256[:DIGITS] or 'unreadable'}"
        yield named
        number = 1
        while True:
            number += 1
            yield f"{named}_{number}"

    return next(name for name in candidates() if name.casefold() not in used)


def proposed_names(cases: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of scans by their files; with the folders below ``shared_folder`` where scans of different folders have one name."""
    root = shared_folder([dict(case) for case in cases])
    names = []
    for path in (os.path.abspath(case["image"]) for case in cases):
        folder = os.path.relpath(os.path.dirname(path), root) if root else ""
        names.append(Path(os.path.normpath(os.path.join(folder, stem(path)))).as_posix())
    return names


def name_cases(cases: Scans, root: Path) -> list[str]:
    """Add to every scan the ``name`` of its outputs below an output folder.

    The identity of a scan is its content: a scan that has a record there keeps the name of the record, also from another path, and
    gets the item ``sha256`` of that record. A new scan never gets a name that another scan has, in the folder or in this run: the
    first eight digits of the hash of its content follow it. The file at a path that was segmented, with another content by now,
    keeps the name, so that its new result replaces that of a file that is gone; a part of a joined series gets a name of its own.

    Args:
        cases: scans, of which those that are listed twice are moved to ``unused``.
        root: output folder.

    Returns:
        Remarks, one line each.
    """
    _without_repeats(cases)
    records, notes = read_records(root), []
    paths = {name: input_path(record) for name, record in records.items()}
    by_path: dict[str, list[str]] = defaultdict(list)
    for name, path in paths.items():
        if path:
            by_path[path].append(name)
    by_size: dict[tuple, list[str]] = defaultdict(list)
    for name, record in records.items():
        by_size[tuple(record["input_stamp"][:2])].append(name)
    sources = [_Source(case, name) for case, name in zip(cases, proposed_names(cases), strict=True)]
    taken: dict[str, _Source] = {}
    for source in sources:
        same_size = by_size.get(tuple(source.stamp[:2]), []) if source.stamp else []
        order = dict.fromkeys(n for n in (*by_path.get(source.path, ()), source.proposed, *same_size) if n in records)
        known = next((n for n in order if n not in taken and source.is_content_of(records[n], paths[n])), None)
        if known is not None:
            taken[known] = source
            source.case["sha256"] = str(records[known].get("input_sha256", ""))
    named = {id(source) for source in taken.values()}
    others = [s for s in sources if id(s) not in named]
    for source in sorted(others, key=lambda s: "problem" in s.case):  # which never takes the name of a sound scan
        earlier = [n for n in by_path.get(source.path, ()) if n not in taken]
        before = replaceable(source.case, {n: records[n] for n in earlier})
        if before is not None:
            if source.stamp is not None:
                notes.append(f"{source.case['image']}: has changed since it was segmented; the result {before} is replaced")
            taken[before] = source
            continue
        name = _free_name(source, [*records, *taken])
        taken[name] = source
        if earlier and "problem" not in source.case:
            notes.append(f"{source.case['image']}: is a part of the series of the result {earlier[0]}; outputs are named {name}")
        elif name != source.proposed and "problem" not in source.case:
            notes.append(f"{source.case['image']}: another scan has the name {source.proposed}; its outputs are named {name}")
    for name, source in taken.items():
        source.case["name"] = name
    return notes
