# SPDX-License-Identifier: Apache-2.0
"""Scans shared among the processes that ``torchrun`` started, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")


class DistributedShard:
    """Part of the work that falls to one process; alone, all of it.

    Outside ``torchrun`` nothing of ``torch.distributed`` is touched. Inside, the processes only meet at the end, over gloo, which
    needs no GPU.
    """

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._started = False

    def __enter__(self) -> DistributedShard:
        import torch.distributed as dist

        if self.count > 1 and not dist.is_initialized():
            from datetime import timedelta

            # A process may wait for the others as long as their scans take.
            dist.init_process_group("gloo", timeout=timedelta(days=2))
            self._started = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import torch.distributed as dist

        if self._started:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes what all of them found."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> list[T]:
        """Every ``count``-th item."""
        return list(items[self.rank :: self.count])

    def device(self, device: str | torch.device) -> torch.device:
        """The GPU of this process when there are several."""
        chosen = torch.device(device)
        if chosen.type == "cuda" and chosen.index is None and self.count > 1:
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1))
        return chosen

    def gather(self, items: list[T]) -> list[T]:
        """Items of all processes, in every process."""
        if self.count == 1:
            return items
        import torch.distributed as dist

        parts: list = [None] * self.count
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]
