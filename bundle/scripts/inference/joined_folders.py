# SPDX-License-Identifier: Apache-2.0
"""Scans and records of one DICOM series in several folders: no folder counts twice in the tables of an output folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ..core.provenance import file_hash
from ..io.dicom_headers import is_dicom
from .discovery import parts_of

Record = Mapping[str, object]


def own_files(folder: Path) -> list[Path]:
    """Files of a folder where its slices lie among them, else those of all folders below it, which hold one series together."""
    own = [f for f in folder.iterdir() if f.is_file()]
    slices = (f for f in own if f.name != "DICOMDIR" and not f.name.startswith(".") and is_dicom(f))
    return own if any(slices) else [f for f in folder.rglob("*") if f.is_file()]


def holds(series: Path, output: Path) -> bool:
    """True where files of an output folder would be files of a series: in its folder, or below one whose slices lie in folders."""
    inner, outer = Path(os.path.realpath(output)), Path(os.path.realpath(series))
    return inner == outer or (outer in inner.parents and _is_common(outer))


def input_hash(path: str) -> str:
    """SHA-256 of a scan, of a folder without what lies in folders beside its slices, such as outputs."""
    folder = Path(path)
    return file_hash(path, own_files(folder)) if folder.is_dir() else file_hash(path)


def folders_of_case(case: Mapping[str, str]) -> set[str]:
    """Real paths of a scan of this run: its file or folder, and its other folders."""
    return {os.path.realpath(p) for p in (case["image"], *parts_of(case))}


def input_path(record: Record) -> str:
    """Path of the scan of a record; "" for a relative one, which older versions wrote: it depends on the folder of their run."""
    path = str(record.get("input", ""))
    return os.path.normpath(path) if os.path.isabs(path) else ""


def folders_of_record(record: Record) -> set[str]:
    """Real paths that a result was made from: the folders of a joined series, else its file or folder."""
    return {os.path.realpath(p) for p in _parts(record) or [input_path(record)] if p}


def _parts(record: Record) -> dict[str, str]:
    """Folders of a joined series with the hash of each; empty for other scans."""
    parts = record.get("parts")
    return {str(p): str(digest) for p, digest in parts.items()} if isinstance(parts, dict) else {}


def _identity(record: Record) -> set[str]:
    """Paths and hashes of the content, which a folder keeps where it is moved between two runs."""
    digests = _parts(record).values() or [str(record.get("input_sha256", ""))]
    return folders_of_record(record) | {f"sha256 {d}" for d in digests if d}


def replaceable(case: Mapping[str, str], earlier: Mapping[str, Record]) -> str | None:
    """Name of the result at the path of a scan that its own may replace, of most folders; None where there is none.

    A result that is also of folders that are not of this scan stays: half a series must not replace the whole.

    Args:
        case: scan of this run.
        earlier: results at its path, by name.
    """
    path, own = os.path.realpath(case["image"]), folders_of_case(case)
    folders = {name: folders_of_record(record) for name, record in earlier.items()}
    return max((n for n, f in folders.items() if path not in f or f <= own), key=lambda n: len(folders[n]), default=None)


def replaced_inputs(cases: Sequence[Mapping[str, str]], records: Collection[Record]) -> Callable[[str], bool]:
    """Predicate of the inputs of earlier problems that are outdated: those of scans of this run and of parts of joined series.

    Args:
        cases: scans of this run.
        records: results of the output folder.
    """
    images = {os.path.realpath(c["image"]) for c in cases}
    joined = (f for f in map(folders_of_record, records) if len(f) > 1)
    known = images.union(*map(folders_of_case, cases), *joined)

    def replaced(path: str) -> bool:
        real = os.path.realpath(path)
        return real in known or any(str(p) in images and _is_common(p) for p in Path(real).parents)

    return replaced


def _is_common(folder: Path) -> bool:
    """True for a folder whose slices all lie in the folders below it."""
    try:
        return folder.is_dir() and any(f.parent != folder for f in own_files(folder))
    except OSError:
        return False


def without_parts(results: Mapping[str, dict], current: Collection[str]) -> tuple[dict[str, dict], list[str]]:
    """Results of which no two are of one folder, by path or content: that of most folders stays, among equals that of this run.

    Args:
        results: results of an output folder by name.
        current: names of the scans of this run.

    Returns:
        Results for the tables, and a line for each that is left out.
    """
    identity = {name: _identity(record) for name, record in results.items()}
    number = {name: len(folders_of_record(record)) for name, record in results.items()}
    order = sorted(results, key=lambda name: (-number[name], name not in current, name))
    owner: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name in order:
        shared = (owner[key] for key in sorted(identity[name]) if key in owner)
        other = next((o for o in shared if number[name] > 1 or number[o] > 1), None)
        if other is None:
            owner.update(dict.fromkeys(identity[name] - owner.keys(), name))
        else:
            left_out[name] = other
    notes = [
        f"{name}: its slices are also those of {other}, a series in several folders; left out of the tables (delete "
        f"cases/{other}.json to have it there instead)"
        for name, other in sorted(left_out.items())
    ]
    return {name: record for name, record in results.items() if name not in left_out}, notes
