# SPDX-License-Identifier: Apache-2.0
"""Records of what finished cases were made from, so that a corrected or moved source is not taken for the former one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...core.files import write_text
from ...data.source_files import content_hash, file_state

FOLDER = "cases"
SOURCE = "source_sha256"


def source_hash(case: Mapping[str, str], keys: Sequence[str], rows: Mapping[int, Mapping[str, str]] | None = None) -> str:
    """SHA-256 of the files of a case, and of its rows in a table of vertebrae.

    Args:
        case: entry of a datalist with absolute paths.
        keys: keys of the files that are read.
        rows: rows of the table by label.
    """
    facts = {key: file_state(case[key]) if key == "image" else content_hash(case[key]) for key in keys if case.get(key)}
    table = {str(label): dict(row) for label, row in sorted((rows or {}).items())}
    return hashlib.sha256(json.dumps([facts, table], sort_keys=True).encode()).hexdigest()


def is_from(root: Path, name: str, source: str) -> bool:
    """True for a case made from ``source``, or before there were records (0.23)."""
    try:
        record = json.loads((root / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get(SOURCE) == source


def write_source(root: Path, name: str, source: str) -> None:
    """Record what a case is made from, before its files are written."""
    write_text(root / FOLDER / f"{name}.json", json.dumps({SOURCE: source}) + "\n")
