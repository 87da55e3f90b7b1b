# SPDX-License-Identifier: Apache-2.0
"""What a run was made of: revision, environment, machine, data."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..core.errors import InputError
from ..core.files import write_text
from ..core.provenance import file_hash, revision, versions
from ..data.datalist import read_datalist


def machine() -> dict[str, object]:
    """Machine that runs, as far as numbers and times depend on it."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0] if models else name
    found: dict[str, object] = {"host": socket.gethostname(), "system": platform.platform(), "processor": name}
    found["cores"] = os.cpu_count() or 1
    found["threads"] = torch.get_num_threads()
    found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def environment() -> dict[str, object]:
    """Everything about software and hardware that goes into a record."""
    return {**revision(), "versions": versions(), "machine": machine()}


def data_hash(datalist: Path, cache: Path) -> str:
    """SHA-256 of the images and labels that a datalist names, section by section.

    Hashes of files are kept in ``cache`` by size and time of change, so that only the first run on large data takes long.

    Raises:
        InputError: when the datalist or a file of it cannot be read.
    """
    _, sections = read_datalist(datalist)
    known: dict[str, Any] = {}
    if cache.is_file():
        try:
            known = dict(json.loads(cache.read_text(encoding="utf-8")))
        except ValueError:
            known = {}
    total, fresh = hashlib.sha256(), dict(known)
    files = [(s, k, Path(c[k])) for s, cases in sections.items() for c in cases for k in ("image", "label") if k in c]
    for section, kind, path in tqdm(files, desc="hashing data", unit="file", disable=len(files) < 500):
        if not path.exists():
            raise InputError(f"{path}: named by {datalist} and not there; restore it or mend the datalist")
        state = path.stat()
        key, stamp = str(path), [state.st_size, state.st_mtime_ns]
        if key not in known or known[key][:2] != stamp:
            fresh[key] = [*stamp, file_hash(path)]
        total.update(f"{section} {kind} {fresh[key][2]}\n".encode())
    if fresh != known:
        write_text(cache, json.dumps(fresh, indent=1) + "\n")
    return total.hexdigest()


def read_record(folder: Path) -> dict[str, Any]:
    """Record of a run; empty when there is none.

    Raises:
        InputError: when it is damaged.
    """
    path = Path(folder) / "record.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete the folder to run it again") from None


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the record of a run."""
    write_text(Path(folder) / "record.json", json.dumps(content, indent=2, default=str) + "\n")
