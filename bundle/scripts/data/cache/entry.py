# SPDX-License-Identifier: Apache-2.0
"""A preprocessed case on disk: one array a file, to be mapped into memory, and what belongs to them."""

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

INDEX = "entry.json"
BLOCK, BLOCKS = 1 << 16, 8  # bytes and number of the blocks that tell a damaged file without reading all of it
STALE_TMP_S = 86400.0  # a temporary folder this old belongs to no process any more


class CorruptEntryError(Exception):
    """An entry that cannot be used; the message says why."""


def write_entry(folder: Path, item: Mapping[str, Any]) -> None:
    """Write an entry under a temporary name; it takes its own when it is complete.

    Another process may have been faster: its entry has the same content and stays.

    Args:
        folder: the entry's own folder.
        item: arrays, tensors and images with metadata; of other values those that JSON can hold.

    Raises:
        OSError: when the disk is full or may not be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.mkdir()
        index: dict[str, Any] = {}
        for number, (key, value) in enumerate(item.items()):
            if isinstance(value, (np.ndarray, torch.Tensor)):
                path = temporary / f"{number}.npy"
                array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
                with path.open("wb") as file:
                    np.save(file, np.asarray(array, order="C"))
                    file.flush()
                    os.fsync(file.fileno())
                index[key] = {
                    "file": path.name,
                    "tensor": array is not value,
                    "bytes": path.stat().st_size,
                    "check": _check(path),
                }
                if isinstance(value, MetaTensor):
                    index[key]["meta"] = {k: p for k, v in value.meta.items() if (p := _plain(v)) is not None}
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


def _plain(value: Any) -> Any:
    """Return a value of the metadata as JSON can hold it, None for what it cannot."""
    if isinstance(value, torch.Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, bool, int, float)) else None


def _rich(value: Any) -> Any:
    """Undo ``_plain``."""
    if isinstance(value, dict) and "tensor" in value:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    if isinstance(value, dict):
        return np.array(value["array"], dtype=value["dtype"])
    return value


def _check(path: Path) -> int:
    """CRC-32 of blocks spread over a file: it tells one that was cut off, emptied or overwritten, not every flipped bit."""
    size, value = path.stat().st_size, 0
    with path.open("rb") as file:
        for start in sorted({int(s) for s in np.linspace(0, max(size - BLOCK, 0), BLOCKS)}):
            file.seek(start)
            value = zlib.crc32(file.read(BLOCK), value)
    return value


def read_index(folder: Path, verify: bool = False) -> dict[str, Any]:
    """Return what an entry holds.

    Args:
        folder: the entry's own.
        verify: whether a few blocks of every file are read and compared too.

    Raises:
        FileNotFoundError: when there is no such entry.
        CorruptEntryError: when it is incomplete or was changed.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        for about in index.values():
            if "file" not in about:
                continue
            path = folder / about["file"]
            size = path.stat().st_size
            if size != about["bytes"]:
                raise CorruptEntryError(f"{path.name} has {size} bytes, {about['bytes']} were written")
            if verify and _check(path) != about["check"]:
                raise CorruptEntryError(f"{path.name} was changed after it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptEntryError(str(error)) from None
    return index


def read_entry(folder: Path) -> dict[str, Any]:
    """Return the item with its arrays mapped into memory: what is not touched is not read.

    Whatever a transform writes stays in this process and is gone with the item (copy on write).

    Raises:
        FileNotFoundError: when there is no such entry.
        CorruptEntryError: when it cannot be used.
    """
    item: dict[str, Any] = {}
    for key, about in read_index(folder).items():
        if "file" not in about:
            item[key] = about["value"]
            continue
        try:
            path = folder / about["file"]
            large = about["bytes"] > BLOCK  # an empty array cannot be mapped, a small one need not be
            array = np.load(path, mmap_mode="c" if large else None, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorruptEntryError(f"{about['file']}: {error}") from None
        item[key] = torch.from_numpy(np.asarray(array)) if about["tensor"] else array
        if "meta" in about:
            item[key] = MetaTensor(item[key], meta={k: _rich(v) for k, v in about["meta"].items()})
    return item


def remove_entry(folder: Path) -> None:
    """Take an entry away; its name is free at once, also while another process reads its files."""
    aside = folder.with_name(f".{uuid.uuid4().hex}")
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def sweep(root: Path) -> None:
    """Take away temporary folders that a process left behind which was killed."""
    for path in root.glob("*/.*"):
        try:
            if path.is_dir() and time.time() - path.stat().st_mtime > STALE_TMP_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
