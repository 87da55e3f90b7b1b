# SPDX-License-Identifier: Apache-2.0
"""Record of a run: revision, packages, machine, data."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...core.deprecations import migrate_keys
from ...core.errors import InputError
from ...core.files import read_table, write_text
from ...core.provenance import file_hash, revision, versions
from ...data.datalist import PART, read_datalist


def environment() -> dict[str, Any]:
    """Software and hardware of a record."""
    return {**revision(), "versions": versions(), "machine": machine()}


def machine() -> dict[str, Any]:
    """Machine, as far as numbers and times depend on it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": name,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def datalist_hash(datalist: Path, cache: Path) -> str:
    """SHA-256 of images and labels by section, cached by size and modification time; ``InputError`` for an unreadable file."""
    _, sections = read_datalist(datalist)
    cached: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        cached = dict(json.loads(cache.read_text(encoding="utf-8")))
    total, hashes = hashlib.sha256(), dict(cached)
    files = [(s, k, Path(c[k])) for s, cases in sections.items() for c in cases for k in ("image", "label") if k in c]
    total.update("".join(str(c[PART]) for cases in sections.values() for c in cases if PART in c).encode())
    for section, kind, path in tqdm(files, desc="hashing data", unit="file", disable=len(files) < 500):
        if not path.exists():
            raise InputError(f"{path}: named by {datalist} and not there; restore it or fix the datalist")
        state = path.stat()
        key, stamp = str(path), [state.st_size, state.st_mtime_ns]
        if key not in cached or cached[key][:2] != stamp:
            hashes[key] = [*stamp, file_hash(path)]
        total.update(f"{section} {kind} {hashes[key][2]}\n".encode())
    if hashes != cached:
        write_text(cache, json.dumps(hashes, indent=1) + "\n")
    return total.hexdigest()


def read_record(folder: Path) -> dict[str, Any]:
    """Record of a run; empty when there is none, ``InputError`` when it is damaged."""
    path = Path(folder) / "record.json"
    if not path.is_file():
        return {}
    try:
        return migrate_keys(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete the folder to run it from scratch") from None


def read_history(folder: Path) -> list[dict[str, str]]:
    """Epochs of a training; none before the first."""
    path = Path(folder) / "history.csv"
    return read_table(path) if path.is_file() else []


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the record of a run."""
    write_text(Path(folder) / "record.json", json.dumps(content, indent=2, default=str) + "\n")
