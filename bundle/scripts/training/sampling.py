# SPDX-License-Identifier: Apache-2.0
"""Samples that are functions of seed, pass and case, independent of the number of workers and of interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Randomizable
from torch.utils.data import Dataset, Sampler

from ..core.errors import first_line


class EpochSampler(Sampler[int]):
    """Sampler of a fixed number of cases an epoch, in an order that is a function of seed and epoch.

    Epochs are consecutive parts of one sequence of passes over the data set, each a permutation of all cases, so that every case
    occurs equally often however few or many there are. A small set has several passes an epoch, a large one less than one. Without
    ``cases`` an epoch is one pass.

    Its items are ``number of the pass * n + index``: persistent workers receive no other information about the epoch, by which
    ``SeededDataset`` seeds the transforms. An interrupted epoch is resumed at ``start``, a number of cases.

    With several processes, each has its part of every step: their k-th batches together, in the order of the ranks, are the k-th
    batch of one process whose batches are ``world_size`` times as large. The last batch is filled up with the first cases of the
    epoch where it cannot be shared equally, so that a few cases may occur twice.

    Args:
        data_source: data set.
        seed: seed of the run.
        shuffle: False keeps the order of the data set.
        batch_size: cases in a batch of one process.
        rank: rank of this process.
        world_size: number of processes.
        cases: cases of an epoch over all processes; None for every case once.

    Raises:
        ValueError: for an empty batch or epoch, or a rank out of range.
    """

    def __init__(
        self,
        data_source: Sized,
        seed: int = 0,
        shuffle: bool = True,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
        cases: int | None = None,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"EpochSampler: batch_size={batch_size}, rank={rank}, world_size={world_size}; batch_size must be at "
                "least 1 and rank from 0 to world_size - 1."
            )
        if cases is not None and cases < 1:
            raise ValueError(f"EpochSampler: cases={cases}; must be at least 1, or None for every case once an epoch.")
        self.n, self.seed, self.shuffle = len(data_source), seed, shuffle
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.cases = cases if cases is not None and self.n else self.n
        self.epoch, self.start = 0, 0

    def _pass(self, number: int) -> list[int]:
        """Items of one pass over the data set."""
        indices = np.random.default_rng([self.seed, number]).permutation(self.n) if self.shuffle else range(self.n)
        return [number * self.n + int(i) for i in indices]

    def _order(self) -> list[int]:
        """Items of the epoch over all processes."""
        if not self.n:
            return []
        # Epochs count from 1, and so do passes: without `cases` both are the same.
        first = max(self.epoch - 1, 0) * self.cases
        passes = range(first // self.n, -(-(first + self.cases) // self.n))
        offset = min(self.epoch, 1)
        items = [item for number in passes for item in self._pass(number + offset)]
        begin = first - passes[0] * self.n
        return items[begin : begin + self.cases]

    def _parts(self) -> Iterator[tuple[int, int, int]]:
        """Start and stop of every step over all processes, and the number of its cases for each process."""
        step = self.batch_size * self.world_size
        for start in range(0, self.cases, step):
            stop = min(start + step, self.cases)
            yield start, stop, -(-(stop - start) // self.world_size)

    def __iter__(self) -> Iterator[int]:
        order, items = self._order(), list[int]()
        for start, stop, each in self._parts():
            missing = each * self.world_size - (stop - start)
            cases = order[start:stop] + [order[i % len(order)] for i in range(missing)]
            items += cases[self.rank * each : (self.rank + 1) * each]
        return iter(items[self.start :])

    def __len__(self) -> int:
        return sum(each for _, _, each in self._parts())


class CaseError(RuntimeError):
    """Case that cannot be read or transformed; the message is one line that names its file."""


def case_name(item: Any, index: int) -> str:
    """File of the image of an item of a data list, or its number."""
    return str(item["image"]) if isinstance(item, dict) and isinstance(item.get("image"), (str, Path)) else f"case {index}"


class SeededDataset(Dataset):
    """Data set whose random transforms are seeded for every case and every pass over the data set.

    Every sample has the name of its case as ``case``, for error lines.

    Args:
        dataset: MONAI data set whose ``transform`` holds the random transforms.
        seed: seed of the run.
    """

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, code: int) -> Any:
        """Return the item of ``number of the pass * n + index``, see ``EpochSampler``."""
        number, index = divmod(int(code), len(self.dataset))
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            state = np.random.SeedSequence([self.seed, number, index]).generate_state(1)
            transform.set_random_state(seed=int(state[0]))
        cases = getattr(self.dataset, "data", None)
        name = case_name(cases[index] if cases is not None else None, index)
        try:
            item = self.dataset[index]
        except Exception as error:
            raise CaseError(f"{name}: {root_cause(error)}") from error
        for sample in item if isinstance(item, list) else [item]:
            if isinstance(sample, dict):
                sample["case"] = name
        return item


def root_cause(error: BaseException) -> str:
    """First line of the first of a chain of exceptions: MONAI's transforms wrap the reason in "applying transform ..."."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return first_line(error)
