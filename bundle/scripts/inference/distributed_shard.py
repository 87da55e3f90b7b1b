# SPDX-License-Identifier: Apache-2.0
"""Distribution of scans over the processes that ``torchrun`` started, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist

from ..core.processes import env_rank, env_world_size

T = TypeVar("T")
MAX_WAIT = timedelta(days=2)  # for the scans of the other processes


class DistributedShard:
    """Share of this process in the work; all of it outside ``torchrun``, where no process group is made.

    Inside, the processes communicate only at the end, over gloo, which needs no GPU.
    """

    def __init__(self) -> None:
        self.rank, self.count = env_rank(), env_world_size()
        self._started = False

    def __enter__(self) -> DistributedShard:
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("gloo", timeout=MAX_WAIT)
            self._started = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._started:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """True in the process that writes the tables of all."""
        return self.rank == 0

    def part(self, items: Sequence[T]) -> list[T]:
        """Every ``count``-th item."""
        return list(items[self.rank :: self.count])

    def device(self, device: str | torch.device) -> torch.device:
        """GPU of this process where there are several."""
        chosen = torch.device(device)
        if chosen.type == "cuda" and chosen.index is None and self.count > 1:
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1))
        return chosen

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            dist.barrier()

    def gather(self, items: list[T]) -> list[T]:
        """Items of all processes, in every process."""
        if self.count == 1:
            return items
        parts: list = [None] * self.count
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]
