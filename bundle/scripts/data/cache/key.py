# SPDX-License-Identifier: Apache-2.0
"""What a preprocessed case depends on, as one key: content of its files, its other values, the transforms and their versions."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import os
import re
import sys
import time
import types
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

FORMAT = 1  # of an entry; a new one leaves every older entry aside
MTIME_RESOLUTION_S = 2.0  # a file this young may change again within the resolution of its time stamp
MEMO = "files.json"


def describe(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Return a description of a parameter that JSON can hold and that is equal in every process.

    Objects are described by class and attributes. For classes and functions outside MONAI and PyTorch the hash of their module's
    source stands too, so that edited code means another description.

    Args:
        value: anything a transform may hold.
        seen: identities of the objects on the way here, so that a circle ends.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, enum.Enum):
        return [type(value).__qualname__, value.name]
    if isinstance(value, (torch.dtype, torch.device, np.dtype, np.generic, Path)):
        return [type(value).__qualname__, str(value)]
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value)
        return ["array", str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if id(value) in seen:
        return ["again", type(value).__qualname__]
    seen = (*seen, id(value))
    if isinstance(value, Mapping):
        return {"map": sorted(([describe(k, seen), describe(v, seen)] for k, v in value.items()), key=json.dumps)}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((describe(v, seen) for v in value), key=json.dumps)}
    if isinstance(value, (list, tuple, range)):
        return [describe(v, seen) for v in value]
    if isinstance(value, types.CodeType):
        return [value.co_code.hex(), describe(value.co_consts, seen), list(value.co_names)]
    if isinstance(value, functools.partial):
        return ["partial", describe([value.func, value.args, value.keywords], seen)]
    if inspect.isroutine(value):  # a lambda of a config has no module whose source would tell it from another
        inside = [getattr(value, k, None) for k in ("__code__", "__defaults__", "__kwdefaults__", "__self__")]
        cells = [c.cell_contents for c in getattr(value, "__closure__", None) or ()]
        return [value.__module__, value.__qualname__, _source(value), describe([*inside, cells], seen)]
    if inspect.isclass(value):
        return [value.__module__, value.__qualname__, _source(value)]
    kind = type(value)
    if inspect.ismodule(value):
        return ["module", value.__name__]
    if not hasattr(value, "__dict__"):
        return [kind.__module__, kind.__qualname__, re.sub(r" at 0x[0-9a-f]+", "", repr(value))]
    held = {k: v for k, v in vars(value).items() if not isinstance(v, np.random.RandomState)}
    return [kind.__module__, kind.__qualname__, _source(kind), describe(held, seen)]


def _source(thing: Any) -> str:
    """Hash of the source of the module of a class or function, "" for those that a version stands for."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or module.__name__.partition(".")[0] in ("builtins", "monai", "torch", "numpy"):
        return ""
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def config_digest(transforms: Iterable[Any]) -> str:
    """Return the SHA-256 of transforms, their parameters and the versions of MONAI and PyTorch, which resample."""
    parts = [FORMAT, monai.__version__, torch.__version__, [describe(t) for t in transforms]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class FileDigests:
    """SHA-256 of files, remembered by path, size and time of change, so that a start does not read every scan again.

    Args:
        folder: where the memory is kept; it may be shared, what two processes write at once is computed again at worst.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MEMO
        self.known = self._read()
        self.changed = False

    def _read(self) -> dict[str, list]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a lost memory costs time only
            return {}
        return known if isinstance(known, dict) else {}

    def __call__(self, path: Path) -> str:
        """Return the digest of a file, or of all files in a folder (a DICOM series).

        Raises:
            OSError: when it cannot be read.
        """
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            return hashlib.sha256("\n".join(f"{p.relative_to(path)} {self(p)}" for p in files).encode()).hexdigest()
        name, facts = str(path.resolve()), path.stat()
        stamp = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
        if name in self.known and self.known[name][:3] == stamp:
            return self.known[name][3]
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if time.time() - facts.st_mtime > MTIME_RESOLUTION_S:
            self.known[name] = [*stamp, digest.hexdigest()]
            self.changed = True
        return digest.hexdigest()

    def save(self) -> None:
        """Write what was learnt, together with what another process wrote meanwhile."""
        if self.changed:
            # Not named by the process id, as `core.files.atomic_write` does: containers that share the folder have equal ones.
            temporary = self.path.with_name(f".{uuid.uuid4().hex}")
            try:
                temporary.write_text(json.dumps({**self._read(), **self.known}), encoding="utf-8")
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)
            self.changed = False


def item_digest(item: Mapping[str, Any], digests: FileDigests) -> str:
    """Return the SHA-256 of a case of the datalist: its files by content, whatever they are called, everything else by value."""
    parts = []
    for key in sorted(item):
        values = item[key] if isinstance(item[key], (list, tuple)) else [item[key]]
        for value in values:
            if isinstance(value, (str, os.PathLike)) and Path(value).exists():
                parts.append([key, "".join(Path(value).suffixes[-2:]), digests(Path(value))])
            else:
                parts.append([key, "value", describe(value)])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
