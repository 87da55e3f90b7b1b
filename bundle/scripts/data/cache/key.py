# SPDX-License-Identifier: Apache-2.0
"""Cache key: SHA-256 of the content of a case's files, its other values, the transforms and the versions of MONAI and PyTorch."""

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

from ...io.detached_voxels import voxel_files
from ..datalist import PART

FORMAT = 1  # of an entry; entries of another format are not used
MTIME_RESOLUTION_S = 2.0  # a file younger than this may change again without a new time stamp
DIGEST_CACHE = "files.json"


def describe(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Description of a parameter for JSON that is equal in every process.

    Objects are described by class and attributes, and classes and functions outside MONAI and PyTorch by the hash of their module's
    source, too, so that edited code has another description.

    Args:
        value: attribute of a transform, of any type.
        seen: identities of the enclosing objects, which ends circular references.
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
    if inspect.isroutine(value):  # the module of a lambda of a config does not contain its source
        parts = [getattr(value, k, None) for k in ("__code__", "__defaults__", "__kwdefaults__", "__self__")]
        cells = [c.cell_contents for c in getattr(value, "__closure__", None) or ()]
        return [value.__module__, value.__qualname__, _source(value), describe([*parts, cells], seen)]
    if inspect.isclass(value):
        return [value.__module__, value.__qualname__, _source(value)]
    if inspect.ismodule(value):
        return ["module", value.__name__]
    cls = type(value)
    if not hasattr(value, "__dict__"):
        return [cls.__module__, cls.__qualname__, re.sub(r" at 0x[0-9a-f]+", "", repr(value))]
    attributes = {k: v for k, v in vars(value).items() if not isinstance(v, np.random.RandomState)}
    return [cls.__module__, cls.__qualname__, _source(cls), describe(attributes, seen)]


def _source(value: Any) -> str:
    """SHA-256 of the sources of the module of a class or function and of those of its package that it uses.

    "" for those whose version is part of the key.
    """
    name = getattr(value, "__module__", None) or ""
    if name not in sys.modules or name.partition(".")[0] in ("builtins", "monai", "torch", "numpy"):
        return ""
    try:
        return hashlib.sha256("".join(inspect.getsource(sys.modules[m]) for m in sorted(_used(name))).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


@functools.lru_cache(maxsize=256)
def _used(name: str) -> frozenset[str]:
    """Names of a module and of the modules of the same package whose classes, functions and modules it uses, at any depth."""
    package, found, pending = name.partition(".")[0], {name}, [name]
    while pending:
        for item in vars(sys.modules[pending.pop()]).values():
            of = item.__name__ if inspect.ismodule(item) else getattr(item, "__module__", None)
            if isinstance(of, str) and of in sys.modules and of.partition(".")[0] == package and of not in found:
                found.add(of)
                pending.append(of)
    return frozenset(found)


def config_digest(transforms: Iterable[Any]) -> str:
    """SHA-256 of transforms, their parameters and the versions of MONAI and PyTorch, which resample."""
    parts = [FORMAT, monai.__version__, torch.__version__, [describe(t) for t in transforms]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class FileDigests:
    """SHA-256 of files, cached by path, size and time of modification, so that a start does not read every scan again.

    Args:
        folder: folder of the cached digests; it may be shared: a digest that is lost in a race is computed again.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DIGEST_CACHE
        self.digests = self._read()
        self.changed = False

    def _read(self) -> dict[str, list]:
        try:
            digests = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # they are computed again
            return {}
        return digests if isinstance(digests, dict) else {}

    def __call__(self, path: Path) -> str:
        """Digest of a file, or of all files in a folder (a DICOM series).

        Raises:
            OSError: when a file cannot be read.
        """
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            return hashlib.sha256("\n".join(f"{p.relative_to(path)} {self(p)}" for p in files).encode()).hexdigest()
        if detached := voxel_files(path):  # of a header of its own, such as MHD
            return hashlib.sha256(" ".join([self._of_file(path), *map(self._of_file, detached)]).encode()).hexdigest()
        return self._of_file(path)

    def _of_file(self, path: Path) -> str:
        name, status = str(path.resolve()), path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        if name in self.digests and self.digests[name][:3] == stamp:
            return self.digests[name][3]
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if time.time() - status.st_mtime > MTIME_RESOLUTION_S:
            self.digests[name] = [*stamp, digest.hexdigest()]
            self.changed = True
        return digest.hexdigest()

    def save(self) -> None:
        """Write the new digests together with those that another process has written meanwhile."""
        if self.changed:
            # Not named by the process id, as `core.files.atomic_write` does: containers that share the folder have equal ones.
            temporary = self.path.with_name(f".{uuid.uuid4().hex}")
            try:
                temporary.write_text(json.dumps({**self._read(), **self.digests}), encoding="utf-8")
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)
            self.changed = False


def item_digest(item: Mapping[str, Any], digests: FileDigests) -> str:
    """SHA-256 of a case of the datalist: files by content, not by name, everything else by value."""
    parts = []
    for key in sorted(set(item) - {PART}):
        values = item[key] if isinstance(item[key], (list, tuple)) else [item[key]]
        for value in values:
            if isinstance(value, (str, os.PathLike)) and Path(value).exists():
                parts.append([key, "".join(Path(value).suffixes[-2:]), digests(Path(value))])
            else:
                parts.append([key, "value", describe(value)])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
