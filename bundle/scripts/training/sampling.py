# SPDX-License-Identifier: Apache-2.0
"""Samples that depend on seed, epoch and case alone, not on how many workers there are or where a run was taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from monai.transforms import Randomizable
from torch.utils.data import Dataset, Sampler


class EpochSampler(Sampler[int]):
    """Yield every case once an epoch in an order that follows from seed and epoch.

    What it yields holds the epoch too, ``epoch * n + index``, for ``SeededItems`` to draw by: persistent workers are told nothing
    else about the epoch.

    Args:
        data_source: data set.
        seed: of the run.
        shuffle: False keeps the order of the data set.
    """

    def __init__(self, data_source: Sized, seed: int = 0, shuffle: bool = True) -> None:
        self.n, self.seed, self.shuffle = len(data_source), seed, shuffle
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n) if self.shuffle else range(self.n)
        return iter([self.epoch * self.n + int(i) for i in order])

    def __len__(self) -> int:
        return self.n


class SeededItems(Dataset):
    """Hand out the items of a data set with their random transforms seeded anew for every case and epoch.

    Args:
        dataset: MONAI data set whose ``transform`` holds the random transforms.
        seed: of the run.
    """

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, code: int) -> Any:
        """Return the item of ``epoch * n + index``, see ``EpochSampler``."""
        epoch, index = divmod(int(code), len(self.dataset))
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)
            transform.set_random_state(seed=int(state[0]))
        return self.dataset[index]
