# SPDX-License-Identifier: Apache-2.0
"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; it takes the name of ``path`` when the block ends well.

    The temporary name is hidden and ends as ``path`` does, so that a library that chooses the format by the ending finds its own.
    Nothing is left behind when the block raises.
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
    """Write ``text`` as UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: Path | str, rows: Iterable[Mapping], columns: Sequence[str]) -> None:
    """Write ``rows`` as CSV with a header line; keys that are no column are left out, missing ones stay empty."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path | str) -> list[dict[str, str]]:
    """Read a CSV with a header line."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ensure_same_settings(folder: Path | str, settings: Mapping) -> None:
    """Remember the settings that a folder is made with; finished cases are kept, so others may not be mixed in.

    Raises:
        InputError: when the folder was begun with other settings.
    """
    path, now = Path(folder) / "settings.json", json.loads(json.dumps(dict(settings)))
    if not path.is_file():
        write_text(path, json.dumps(now, indent=2) + "\n")
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); choose another folder or delete this one") from None
    for name in now:
        if before.get(name) != now[name]:
            raise InputError(
                f"{folder}: was begun with {name}={before.get(name)!r}, now {name}={now[name]!r}; "
                "its finished cases would be kept, so choose another folder or delete this one"
            )
