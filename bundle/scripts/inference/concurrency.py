# SPDX-License-Identifier: Apache-2.0
"""Several scans at a time: one is read, or its files are written, while the networks predict another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from .memory import MemoryPlan, machine_memory
from .progress import Progress

SHARE = 0.5  # of the machine's memory for all scans where no limit is set; other programs have the rest

Item = TypeVar("Item")
Result = TypeVar("Result")


class MemoryBudget:
    """Memory that scans share; a scan waits until its predicted peak fits beside those that are in memory.

    Args:
        limit: bytes allowed for the process; None allows half of the machine's memory.
    """

    def __init__(self, limit: int | None = None) -> None:
        machine = machine_memory()
        self.allowed = limit if limit is not None or machine is None else int(SHARE * machine)
        self._held: list[int] = []
        self._changed = threading.Condition()

    def _fits(self, plan: MemoryPlan) -> bool:
        return not self._held or self.allowed is None or plan.peak + sum(self._held) <= self.allowed

    @contextmanager
    def hold(self, plan: MemoryPlan) -> Iterator[None]:
        """Hold the memory of a scan during the block. A single scan is always admitted: its plan obeys the limit itself."""
        own = plan.peak - plan.base
        with self._changed:
            self._changed.wait_for(lambda: self._fits(plan))
            self._held.append(own)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(own)
                self._changed.notify_all()


class Cancellation:
    """Flag that ends the scans in progress at their next report of progress."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End all scans in progress."""
        self._event.set()

    def watched(self, progress: Progress) -> Progress:
        """Progress that raises ``KeyboardInterrupt`` once the flag is set."""

        def report(phase: str, done: int, total: int) -> None:
            if self._event.is_set():
                raise KeyboardInterrupt
            progress(phase, done, total)

        return report


def map_concurrently(
    function: Callable[[Item], Result], items: Sequence[Item], number: int, cancellation: Cancellation
) -> Iterator[tuple[int, Result]]:
    """Index and result of every item, as they are completed; with a number of 1 one after the other in the calling thread.

    An exception or an interruption ends those in progress before it is raised; items that have not begun are left out.

    Args:
        function: function of an item.
        items: items, begun in this order.
        number: items in progress at the same time.
        cancellation: is set where an exception ends the iteration.
    """
    if number <= 1 or len(items) <= 1:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    with ThreadPoolExecutor(min(number, len(items)), thread_name_prefix="scan") as pool:
        futures: dict[Future[Result], int] = {pool.submit(function, item): n for n, item in enumerate(items)}
        try:
            remaining = set(futures)
            while remaining:
                completed, remaining = wait(remaining, return_when=FIRST_COMPLETED)
                for future in sorted(completed, key=futures.__getitem__):
                    yield futures[future], future.result()
        except BaseException:
            cancellation.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
