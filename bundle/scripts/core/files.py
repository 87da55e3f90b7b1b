# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files, CSV tables, and the settings of an output folder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .deprecations import migrate_keys
from .errors import InputError


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write to a temporary file in the folder of ``path``, which replaces ``path`` when the block ends without an exception.

    The temporary name is hidden and has the suffix of ``path``, by which libraries choose a format. An exception removes it.

    Yields:
        Temporary path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
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

    Raises:
        InputError: when the folder was begun with other settings.
    """
    path, current = Path(folder) / "settings.json", json.loads(json.dumps(dict(settings)))
    if not path.is_file():
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
