# SPDX-License-Identifier: Apache-2.0
"""Data set whose deterministic transforms run once: their results are kept in a folder for this and every later run."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from copy import deepcopy
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, RandomizableTrait, Transform
from tqdm import tqdm

from ...core.errors import InputError, first_line, refusal, served
from ...core.program import command
from ...io.formats import read_volume
from ..datalist import FILE_KEYS
from .entry import CorruptEntryError, read_entry, read_index, remove_entry, remove_stale, write_entry
from .key import FileDigests, config_digest, item_digest

logger = logging.getLogger(__name__)


def cached_dataset(
    data: Sequence[dict], transform: Compose, cache_dir: str | None = None, cache_rate: float = 1.0, num_workers: int = 1
) -> Dataset:
    """Data set that caches the results of the transforms before the first random one, in memory or in a folder.

    Args:
        data: cases of the datalist.
        transform: transforms of MONAI.
        cache_dir: folder for ``VolumeCache``; None caches in memory (MONAI's ``CacheDataset``).
        cache_rate: fraction of the cases cached in memory; a folder caches all.
        num_workers: number of threads that fill the cache.

    Raises:
        InputError: when the folder cannot be used.
    """
    try:
        if cache_dir is None:
            return MemoryCache(data, transform, cache_rate=cache_rate, num_workers=num_workers, hash_as_key=True)
        return VolumeCache(data, transform, cache_dir, num_workers)
    except UnusableCaseError as error:
        line = f"{error}; fix or exclude this case, `{command('data check')}` finds others"
        raise refusal(line) if served() else InputError(line) from None


class UnusableCaseError(RuntimeError):
    """Case that cannot be read or transformed; the message names its file and the cause."""

    def __init__(self, case: dict, error: BaseException) -> None:
        # MONAI wraps the cause in "applying transform ...".
        while (inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
            error = inner
        super().__init__(f"{_damaged(case)}: {first_line(error)}")


def _damaged(case: dict) -> str:
    """File of a case that cannot be read, or else its image, as the messages of readers name none."""
    for path in (case[key] for key in FILE_KEYS if isinstance(case.get(key), str)):
        try:
            np.asanyarray(read_volume(path).dataobj)
        except Exception:
            return str(path)
    return str(case.get("image", "a case"))


class MemoryCache(CacheDataset):
    """MONAI's ``CacheDataset``, in which repeated cases are cached once, with access to the cached state of a case."""

    def _load_cache_item(self, idx: int) -> Any:
        try:
            return super()._load_cache_item(idx)
        except MemoryError:
            raise
        except Exception as error:
            raise UnusableCaseError(self.data[idx], error) from error

    def deterministic(self, index: int) -> dict[str, Any]:
        """Case after the transforms before the first random one, not to be changed in place."""
        key = self.hash_func(self.data[index])
        if key in self._hash_keys:
            return self._cache[self._hash_keys.index(key)]
        first = self.transform.get_index_of_first(lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform))
        return self.transform(deepcopy(self.data[index]), end=first, threading=True)


class VolumeCache(Dataset):
    """MONAI data set that caches cases in a folder in their state before the first random transform.

    The key of an entry is a SHA-256 of the files' content, the deterministic transforms with all their parameters and the versions
    of MONAI and PyTorch, so changed files or configs have new entries. Entries appear under their name only when they are complete,
    so any number of processes may share a folder. Arrays are memory-mapped: drawing a slice reads that slice, and workers share the
    system's page cache. Only damaged entries are deleted; the folder may be emptied at any time between runs.

    ``applied_operations`` of images is not cached, so ``Invertd`` needs another data set; affine and metadata are. MONAI's
    ``PersistentDataset`` has the path in its key and not the content, loads whole volumes and loses the affine of cached cases.

    Args:
        data: cases of the datalist.
        transform: transforms of MONAI.
        cache_dir: folder; it is created when it is missing.
        num_workers: number of threads that fill the cache.

    Raises:
        InputError: when the folder is full or cannot be written to.
    """

    def __init__(self, data: Sequence[dict], transform: Compose, cache_dir: Path | str, num_workers: int = 1) -> None:
        super().__init__(data, transform)
        self.first_random = transform.get_index_of_first(lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform))
        self.cache_dir = Path(cache_dir)
        self.folders = self._fill(max(int(num_workers), 1))

    def _fill(self, workers: int) -> list[Path]:
        """Write missing and damaged entries; return the folder of every case."""
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            if not os.access(self.cache_dir, os.W_OK | os.X_OK):
                raise PermissionError("no permission to write")
            remove_stale(self.cache_dir)
            digests = FileDigests(self.cache_dir)
            config = config_digest(self.transform.transforms[: self.first_random])
            with ThreadPool(workers) as pool:
                items = pool.map(lambda item: item_digest(item, digests), self.data)
            digests.save()
            # The digest of the config is the outer folder, as both in one name would be too long for some file systems.
            folders = [self.cache_dir / config[:32] / digest[:40] for digest in items]
            missing = {folder: index for index, folder in enumerate(folders) if not self._usable(folder)}
            if missing:
                # Processes that start together begin with different cases and so share the work.
                first, pending = uuid.uuid4().int % len(missing), list(missing.items())
                pool = ThreadPool(workers)
                try:
                    written = pool.imap_unordered(lambda pair: self._write(*pair), pending[first:] + pending[:first])
                    list(tqdm(written, total=len(missing), desc=f"preprocessing into {self.cache_dir}"))
                finally:  # after an error, the other threads still remove what they have not finished
                    pool.terminate()
                    pool.join()
        except OSError as error:
            raise InputError(
                f"cache_dir={self.cache_dir}: {error.strerror or error}; choose a writable folder with free space, "
                "or leave cache_dir out to cache the scans in memory"
            ) from None
        return folders

    @staticmethod
    def _usable(folder: Path) -> bool:
        """True for an intact entry; a damaged one is logged and removed."""
        try:
            read_index(folder, verify=True)
        except FileNotFoundError:
            return False
        except CorruptEntryError as error:
            logger.warning(f"{folder}: damaged ({error}); it is rewritten")
            remove_entry(folder)
            return False
        return True

    def _write(self, folder: Path, index: int) -> None:
        if not folder.is_dir():  # another process may have written it meanwhile
            source = self.data[index]
            try:
                item = self._compute(index).items()
            except MemoryError:
                raise
            except Exception as error:
                raise UnusableCaseError(source, error) from error
            write_entry(folder, {k: None if k in source and not hasattr(v, "shape") else v for k, v in item})

    def _compute(self, index: int) -> dict[str, Any]:
        return self.transform(deepcopy(self.data[index]), end=self.first_random, threading=True)

    def deterministic(self, index: int) -> dict[str, Any]:
        """Case after the transforms before the first random one, not to be changed in place."""
        source = self.data[index]
        try:
            item = read_entry(self.folders[index])
        except (FileNotFoundError, CorruptEntryError) as error:
            logger.warning(f"{self.folders[index]}: lost during the run ({error}); the case is read from its files")
            return self._compute(index)
        for key, value in item.items():
            # The entry may come from files of equal content under other names.
            if hasattr(value, "meta") and isinstance(source.get(key), str):
                value.meta["filename_or_obj"] = source[key]
        return {k: source[k] if k in source and not hasattr(v, "shape") else v for k, v in item.items()}

    def _transform(self, index: int) -> Any:
        item = self.deterministic(index)
        return item if self.first_random is None else self.transform(item, start=self.first_random)
