# SPDX-License-Identifier: Apache-2.0
"""Independent pieces of work in threads, for libraries that compute without the interpreter: NumPy, SciPy, zlib."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 16  # beyond these, the interpreter between the calls of the libraries is the limit

END = object()
Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Processor cores that this process may use; no more than ``OMP_NUM_THREADS``, which divides them among several processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(min(cores, int(limit)), 1) if limit.isdigit() else cores


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """Items in their order, of which the next is computed in a thread while the consumer works on one.

    Args:
        items: items; at most two exist at a time.

    Raises:
        Exception: what computing an item raises, in its place.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        pending = pool.submit(next, source, END)
        while (item := pending.result()) is not END:
            pending = pool.submit(next, source, END)
            yield item  # type: ignore[misc]


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int | None = None) -> list[Result]:
    """Results of a function in the order of the items, computed side by side.

    Args:
        function: function of an item that changes nothing the others read.
        items: items.
        threads: number of threads; None for the usable cores, at most ``MAX_THREADS``.

    Raises:
        Exception: the first one, in the order of the items, that the function raises.
    """
    threads = min(threads or min(usable_cores(), MAX_THREADS), len(items))
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads, thread_name_prefix="piece") as pool:
        return list(pool.map(function, items))
