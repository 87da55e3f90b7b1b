# SPDX-License-Identifier: Apache-2.0
"""Cache entry: a preprocessed case on disk, one memory-mapped file per array and an index."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

INDEX = "entry.json"
BLOCK_BYTES, NUM_BLOCKS = 1 << 16, 8  # of the checksum, which does not read whole files
STALE_TMP_S = 86400.0  # age of a temporary folder whose process has ended


class CorruptEntryError(Exception):
    """Incomplete or changed entry; the message is the reason."""


def write_entry(folder: Path, item: Mapping[str, Any]) -> None:
    """Write an entry; it appears under its name only when it is complete.

    An entry that another process has written meanwhile has the same content and is kept.

    Args:
        folder: folder of the entry.
        item: arrays, tensors, images with metadata, lists of arrays and tensors, and values that JSON can hold.

    Raises:
        OSError: when the disk is full or cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.mkdir()
        index: dict[str, Any] = {}
        for number, (key, value) in enumerate(item.items()):
            if isinstance(value, (np.ndarray, torch.Tensor)):
                index[key] = _write_array(temporary / f"{number}.npy", value)
            elif isinstance(value, list) and value and all(isinstance(v, (np.ndarray, torch.Tensor)) for v in value):
                index[key] = {"list": [_write_array(temporary / f"{number}_{n}.npy", v) for n, v in enumerate(value)]}
            else:
                index[key] = {"value": value}
        (temporary / INDEX).write_text(json.dumps(index), encoding="utf-8")
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / INDEX).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_array(path: Path, value: NDArray | torch.Tensor) -> dict[str, Any]:
    """Write an array, and return its record in the index."""
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    with path.open("wb") as file:
        np.save(file, np.asarray(array, order="C"))
        file.flush()
        os.fsync(file.fileno())
    record = {"file": path.name, "tensor": array is not value, "bytes": path.stat().st_size, "check": _checksum(path)}
    if isinstance(value, MetaTensor):
        record["meta"] = {k: p for k, v in value.meta.items() if (p := _encode(v)) is not None}
    return record


def _encode(value: Any) -> Any:
    """Value of the metadata for JSON, None for types that JSON cannot hold."""
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, bool, int, float)) else None


def _decode(value: Any) -> Any:
    """Inverse of ``_encode``."""
    if isinstance(value, dict) and "tensor" in value:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    if isinstance(value, dict):
        return np.array(value["array"], dtype=value["dtype"])
    return value


def _checksum(path: Path) -> int:
    """CRC-32 of blocks spread over a file; detects truncation and overwriting, not every flipped bit."""
    size, checksum = path.stat().st_size, 0
    with path.open("rb") as file:
        for start in sorted({int(s) for s in np.linspace(0, max(size - BLOCK_BYTES, 0), NUM_BLOCKS)}):
            file.seek(start)
            checksum = zlib.crc32(file.read(BLOCK_BYTES), checksum)
    return checksum


def read_index(folder: Path, verify: bool = False) -> dict[str, Any]:
    """Read the index of an entry and check the sizes of its files.

    Args:
        folder: folder of the entry.
        verify: whether the checksums are compared, too.

    Returns:
        By key of the item its ``value``, or ``file``, ``tensor``, ``bytes``, ``check`` and ``meta``, or a ``list`` of these.

    Raises:
        FileNotFoundError: when there is no such entry.
        CorruptEntryError: when it is incomplete or changed.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for record in [r for entry in index.values() for r in entry.get("list", [entry])]:
            if "file" not in record:
                continue
            path = folder / record["file"]
            size = path.stat().st_size
            if size != record["bytes"]:
                raise CorruptEntryError(f"{path.name} has {size} bytes, {record['bytes']} were written")
            if verify and _checksum(path) != record["check"]:
                raise CorruptEntryError(f"{path.name} was changed after it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptEntryError(str(error)) from None
    return index


def read_entry(folder: Path) -> dict[str, Any]:
    """Item with memory-mapped arrays, of which only the accessed pages are read.

    Changes by transforms are private to the process and to the item (copy on write).

    Raises:
        FileNotFoundError: when there is no such entry.
        CorruptEntryError: when it is incomplete or changed.
    """
    item: dict[str, Any] = {}
    for key, record in read_index(folder).items():
        if "list" in record:
            item[key] = [_read_array(folder, r) for r in record["list"]]
        else:
            item[key] = _read_array(folder, record) if "file" in record else record["value"]
    return item


def _read_array(folder: Path, record: dict[str, Any]) -> Any:
    """Memory-mapped array, tensor or image of a record of the index."""
    try:
        large = record["bytes"] > BLOCK_BYTES  # an empty array cannot be mapped, a small one need not be
        array = np.load(folder / record["file"], mmap_mode="c" if large else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorruptEntryError(f"{record['file']}: {error}") from None
    value = torch.from_numpy(np.asarray(array)) if record["tensor"] else array
    return MetaTensor(value, meta={k: _decode(v) for k, v in record["meta"].items()}) if "meta" in record else value


def remove_entry(folder: Path) -> None:
    """Remove an entry; its name is free at once, also while another process reads its files."""
    temporary = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        os.rename(folder, temporary)
    except FileNotFoundError:
        return
    shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(root: Path) -> None:
    """Remove the temporary folders of killed processes."""
    for path in root.glob("*/.*"):
        try:
            if path.is_dir() and time.time() - path.stat().st_mtime > STALE_TMP_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
