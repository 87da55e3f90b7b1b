# SPDX-License-Identifier: Apache-2.0
"""Scans that are read, oriented and resampled once and then sampled from a folder, by this run and by every later one."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from copy import deepcopy
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, RandomizableTrait, Transform
from tqdm import tqdm

from ...core.errors import InputError
from .entry import CorruptEntryError, read_entry, read_index, remove_entry, sweep, write_entry
from .key import FileDigests, config_digest, item_digest

logger = logging.getLogger(__name__)


def cached_dataset(
    data: Sequence[dict],
    transform: Compose,
    cache_dir: str | None = None,
    cache_rate: float = 1.0,
    num_workers: int = 1,
) -> Dataset:
    """Return the data set that keeps what its transforms make of a case before the first random one.

    Args:
        data: cases of the datalist.
        transform: of MONAI.
        cache_dir: folder to keep it in, see ``VolumeCache``; None keeps it in memory (MONAI's ``CacheDataset``).
        cache_rate: share that is kept in memory; a folder keeps all.
        num_workers: threads that fill it.

    Raises:
        InputError: when the folder cannot be used.
    """
    if cache_dir is None:
        return CacheDataset(data, transform, cache_rate=cache_rate, num_workers=num_workers)
    return VolumeCache(data, transform, cache_dir, num_workers)


class VolumeCache(Dataset):
    """MONAI data set that keeps cases in a folder as they are before the first random transform.

    An entry is found by a SHA-256 of the files' content, the deterministic transforms with all their parameters and the versions
    of MONAI and PyTorch: changed files or configs make new entries and never meet old ones. Entries appear under their name only
    when they are complete, so that any number of processes may share a folder. Arrays are mapped into memory: drawing a slice
    reads that slice and workers share the system's page cache. Nothing is ever deleted but damaged entries: the folder may be
    emptied at any time between runs.

    ``applied_operations`` of images is not kept, so that ``Invertd`` needs another data set; affine and metadata are. Why not
    MONAI's ``PersistentDataset``: its key holds the path and not the content, it loads whole volumes, and hits lose the affine.

    Args:
        data: cases of the datalist.
        transform: of MONAI.
        cache_dir: folder; it is made when it is missing.
        num_workers: threads that fill it.

    Raises:
        InputError: when the folder cannot be written to, or is full.
    """

    def __init__(self, data: Sequence[dict], transform: Compose, cache_dir: Path | str, num_workers: int = 1) -> None:
        super().__init__(data, transform)
        self.first_random = transform.get_index_of_first(
            lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform)
        )
        self.cache_dir = Path(cache_dir)
        self.folders = self._fill(max(int(num_workers), 1))

    def _fill(self, workers: int) -> list[Path]:
        """Make what is missing or damaged and return the folder of every case."""
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            if not os.access(self.cache_dir, os.W_OK | os.X_OK):
                raise PermissionError("no permission to write there")
            sweep(self.cache_dir)
            digests = FileDigests(self.cache_dir)
            config = config_digest(self.transform.transforms[: self.first_random])
            with ThreadPool(workers) as pool:
                items = pool.map(lambda item: item_digest(item, digests), self.data)
            digests.save()
            # Both digests in one name would be long for some file systems: the config is the outer folder.
            folders = [self.cache_dir / config[:32] / digest[:40] for digest in items]
            missing = {folder: index for index, folder in enumerate(folders) if not self._usable(folder)}
            if missing:
                # Processes that start together begin at different cases and so share the work.
                first = uuid.uuid4().int % len(missing)
                order = [*list(missing.items())[first:], *list(missing.items())[:first]]
                with ThreadPool(workers) as pool:
                    made = pool.imap_unordered(lambda pair: self._make(*pair), order)
                    list(tqdm(made, total=len(missing), desc=f"preprocessing into {self.cache_dir}"))
        except OSError as error:
            raise InputError(
                f"cache_dir={self.cache_dir}: {error.strerror or error}; choose a folder that can be written to and has room, "
                "or leave cache_dir out to keep the scans in memory"
            ) from None
        return folders

    @staticmethod
    def _usable(folder: Path) -> bool:
        """Whether a case has an entry; a damaged one is named and taken away."""
        try:
            read_index(folder, verify=True)
        except FileNotFoundError:
            return False
        except CorruptEntryError as error:
            logger.warning(f"{folder}: damaged ({error}); it is made again")
            remove_entry(folder)
            return False
        return True

    def _make(self, folder: Path, index: int) -> None:
        if not folder.is_dir():  # another process may have made it meanwhile
            source = self.data[index]
            item = self._compute(index).items()
            write_entry(folder, {k: None if k in source and not hasattr(v, "shape") else v for k, v in item})

    def _compute(self, index: int) -> dict[str, Any]:
        return self.transform(deepcopy(self.data[index]), end=self.first_random, threading=True)

    def _load(self, index: int) -> dict[str, Any]:
        """Return the deterministic part of a case."""
        source = self.data[index]
        try:
            item = read_entry(self.folders[index])
        except (FileNotFoundError, CorruptEntryError) as error:
            logger.warning(f"{self.folders[index]}: lost during the run ({error}); the case is read from its files")
            return self._compute(index)
        for key, value in item.items():
            # Names are the case's own: an entry may come from files of equal content elsewhere.
            if hasattr(value, "meta") and isinstance(source.get(key), str):
                value.meta["filename_or_obj"] = source[key]
        return {k: source[k] if k in source and not hasattr(v, "shape") else v for k, v in item.items()}

    def _transform(self, index: int) -> Any:
        item = self._load(index)
        return item if self.first_random is None else self.transform(item, start=self.first_random)
