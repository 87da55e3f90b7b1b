# SPDX-License-Identifier: Apache-2.0
"""Batch of the randomisation and base of its transforms: every transform of a sample draws from a stream of its own."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

SEED_LIMIT = 2**31 - 1


@dataclass
class RandomBatch:
    """Slices of a batch on the device.

    Attributes:
        image: (B, C, *size) in HU; the centre slice is channel ``C // 2``, the others are its neighbours in order.
        outside: True at voxels outside the scan (B, C, *size); their values mean nothing.
        label: codes of the centre slice (B, 1, *size).
        seeds: seed of every sample.
        hu_window: HU of the values 0 and 1 of the network's input.
        draws: generator of every sample in the stream of the present transform.
    """

    image: torch.Tensor
    outside: torch.Tensor
    label: torch.Tensor
    seeds: Sequence[int]
    hu_window: tuple[float, float] = (-200.0, 1000.0)
    draws: Sequence[np.random.Generator] = field(default_factory=tuple)

    def open_stream(self, name: str) -> None:
        """Set ``draws`` to the stream of this name, a function of the seed of the sample and the name alone."""
        self.draws = [np.random.default_rng([seed % 2**32, zlib.crc32(name.encode())]) for seed in self.seeds]

    def select(self, rows: Sequence[int]) -> RandomBatch:
        """Return the samples of these positions; all of them without a copy."""
        if len(rows) == len(self.seeds):
            return self
        index = torch.as_tensor(rows).to(self.image.device, non_blocking=True)
        tensors = {name: getattr(self, name).index_select(0, index) for name in ("image", "outside", "label")}
        return replace(self, **tensors, seeds=[self.seeds[n] for n in rows], draws=[self.draws[n] for n in rows])

    def insert(self, rows: Sequence[int], part: RandomBatch) -> None:
        """Put image and mask of the samples of ``select`` back."""
        if part is not self:
            index = torch.as_tensor(rows).to(self.image.device, non_blocking=True)
            self.image.index_copy_(0, index, part.image)
            self.outside.index_copy_(0, index, part.outside)

    def columns(self, values: Sequence[Sequence[float]]) -> list[torch.Tensor]:
        """Return parameters (B, P) of the samples as P tensors (B, 1, 1, 1) on the device."""
        table = torch.as_tensor(np.asarray(values, dtype=np.float32)).to(self.image.device, non_blocking=True)
        return list(table.T.reshape(table.shape[1], -1, *[1] * (self.image.ndim - 1)))

    def gaussian(self, channels: int, size: Sequence[int]) -> torch.Tensor:
        """Draw standard normal values (B, channels, *size) on the device, every sample from its own stream."""
        shape = (len(self.seeds), channels, *size)
        values = torch.empty(shape, device=self.image.device, dtype=self.image.dtype)
        generator = torch.Generator(self.image.device)
        for value, draw in zip(values, self.draws, strict=True):
            value.normal_(generator=generator.manual_seed(int(draw.integers(SEED_LIMIT))))
        return values


class RandBatchTransform(ABC):
    """Random transform of a batch; the parameters of every sample are drawn on the CPU.

    Args:
        prob: probability that a sample is changed.

    Raises:
        ValueError: when ``prob`` is no probability.
    """

    def __init__(self, prob: float) -> None:
        self.prob = self.probability("prob", prob)

    @abstractmethod
    def __call__(self, batch: RandomBatch) -> RandomBatch:
        """Change the batch in place and return it; its stream must be open."""

    @abstractmethod
    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the parameters of one sample, at least one."""

    def probability(self, name: str, value: float) -> float:
        """Return a checked probability."""
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{type(self).__name__}: {name}={value}; must be a probability, 0 to 1.")
        return float(value)

    def at_least(self, name: str, value: float, low: float = 0.0) -> float:
        """Return a checked number of at least ``low``."""
        if not (low <= value < float("inf")):
            raise ValueError(f"{type(self).__name__}: {name}={value}; must be a finite number of at least {low:g}.")
        return float(value)

    def interval(self, name: str, value: Sequence[float], low: float) -> tuple[float, float]:
        """Return a checked pair of smallest and largest value, both at least ``low``."""
        if len(value) != 2 or not (low <= value[0] <= value[1] < float("inf")):
            raise ValueError(
                f"{type(self).__name__}: {name}={value}; must be two finite numbers, the smaller first, of at least {low:g}."
            )
        return float(value[0]), float(value[1])


class RandImageTransform(RandBatchTransform):
    """Random transform of the images alone: samples are chosen by ``prob`` and changed together."""

    def __call__(self, batch: RandomBatch) -> RandomBatch:
        """Change the chosen samples in place and return the batch."""
        rows = [n for n, draw in enumerate(batch.draws) if draw.random() < self.prob]
        if rows:
            part = batch.select(rows)
            values = [self.parameters(draw) for draw in part.draws]
            part.image = self.change(part, *part.columns(values))
            batch.insert(rows, part)
        return batch

    @abstractmethod
    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the changed image (B, C, *size) in HU of samples with parameters (B, 1, 1, 1); that of the batch may change."""
