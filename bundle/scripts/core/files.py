# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files, CSV tables, and the settings of an output folder."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .deprecations import migrate_keys
from .errors import InputError
from .process_id import process_exists

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = re.compile(  # no hidden file of another program; the second line is of versions before 0.23
    r"\.(\d+)\.(?:spine-fracture\..+|.+\.voxels|"
    r".+_(?:fracture|vertebrae|probability)\.nii\.gz|(?:findings|vertebrae|problems)\.csv|(?:findings|manifest)\.json|report\.html)"
)
STALE_SECONDS = 3600  # another machine may write to the same folder


def is_full(error: OSError) -> bool:
    """True for an error of a full disk or an exhausted quota; numpy and zlib raise some without a number."""
    return error.errno in FULL or (error.errno is None and "requested and" in str(error))


def name_file(error: OSError, path: Path | str) -> OSError:
    """Error with a file name, which those of a write to an open file, such as that of a full disk, lack."""
    if error.filename is not None:
        return error
    if is_full(error):
        return OSError(error.errno or errno.ENOSPC, os.strerror(error.errno or errno.ENOSPC), str(path))
    return OSError(error.errno, error.strerror, str(path)) if error.errno is not None else error


def os_error_line(error: OSError) -> str:
    """One line with file, reason and remedy."""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = "choose another path or fix this one"
    if is_full(error):
        remedy = "free some space, or choose another output; what is finished stays"
    return f"{error.filename or 'a file'}: {reason}; {remedy}"


def remove_stale(folder: Path) -> list[Path]:
    """Remove temporary files that killed processes left in an output folder, those of ``atomic_write`` after an hour.

    Returns:
        Files that were removed.
    """
    removed = []
    for path in sorted(folder.rglob(".*")):
        match = TEMPORARY.fullmatch(path.name)
        if match is None or not path.is_file() or process_exists(int(match[1])):
            continue
        try:
            if path.name.endswith(".voxels") or time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
                removed.append(path)
        except FileNotFoundError:  # another process of this run was first
            continue
    return removed


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write to a temporary file in the folder of ``path``, which replaces ``path`` when the block ends without an exception.

    The temporary name is hidden and has the suffix of ``path``, by which libraries choose a format. An exception removes it.

    Yields:
        Temporary path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.spine-fracture.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise name_file(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path | str, rows: Iterable[Mapping], columns: Sequence[str]) -> None:
    """Write ``rows`` as CSV with a header line; keys not in ``columns`` are dropped, missing ones stay empty."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path | str) -> list[dict[str, str]]:
    """Read a CSV with a header line as one dictionary per row."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ensure_same_settings(folder: Path | str, settings: Mapping) -> None:
    """Store the settings of an output folder, so that finished cases of other settings are never mixed with new ones.

    Settings of a command that wrote nothing else, such as one whose only scan was refused, are replaced.

    Raises:
        InputError: when the folder was begun with other settings.
    """
    path, current = Path(folder) / "settings.json", json.loads(json.dumps(dict(settings)))
    if not path.is_file() or not any(f != path and not f.is_dir() for f in path.parent.rglob("*")):
        write_text(path, json.dumps(current, indent=2) + "\n")
        return
    try:
        before = migrate_keys(dict(json.loads(path.read_text(encoding="utf-8"))))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); choose another folder or delete this one") from None
    for name in current:
        if before.get(name) != current[name]:
            raise InputError(
                f"{folder}: was begun with {name}={before.get(name)!r}, now {name}={current[name]!r}; "
                "its finished cases would be mixed with new ones, so choose another folder or delete this one"
            )
