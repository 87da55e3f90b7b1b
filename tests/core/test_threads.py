# SPDX-License-Identifier: Apache-2.0
"""Work in threads has the results, their order and the errors of a loop."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from scripts.core.threads import map_in_threads, prefetched, usable_cores


@pytest.mark.parametrize("threads", [None, 1, 2, 8])
def test_results_are_in_the_order_of_the_items(threads):
    def late(n: int) -> int:
        time.sleep(0.002 * (5 - n))
        return n * n

    assert map_in_threads(late, range(5), threads) == [0, 1, 4, 9, 16]


def test_no_items_are_no_results():
    assert map_in_threads(str, []) == []


def test_items_are_in_progress_together():
    barrier = threading.Barrier(3, timeout=10)
    assert len(map_in_threads(lambda _: barrier.wait(), range(3), threads=3)) == 3


def test_first_error_in_the_order_of_the_items_is_raised():
    def fails(n: int) -> int:
        if n in (1, 3):
            raise ValueError(n)
        return n

    for threads in (1, 4):
        with pytest.raises(ValueError, match=r"^1$"):
            map_in_threads(fails, range(4), threads)


@pytest.mark.parametrize(("limit", "most"), [("1", 1), ("0", 1), ("1,2", None), ("", None), ("100000", None)])
def test_threads_of_a_process_are_limited_as_those_of_libraries(monkeypatch, limit, most):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = usable_cores()
    assert cores >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert usable_cores() == (cores if most is None else most)


def test_prefetched_items_keep_their_order_and_are_few():
    made = []

    def items():
        for n in range(20):
            made.append(n)
            yield n

    for n in prefetched(items()):
        time.sleep(0.002)
        assert len(made) <= n + 2  # this one and the next
    assert made == list(range(20))
    assert list(prefetched([])) == []


def test_an_error_of_a_prefetched_item_is_raised_in_its_place():
    def items():
        yield 1
        yield 2
        raise ValueError("slice 3: is damaged")

    got = []
    with pytest.raises(ValueError, match="slice 3: is damaged"):
        got.extend(prefetched(items()))
    assert got == [1, 2]


def test_prefetching_ends_with_its_consumer():
    before = threading.active_count()
    for item in prefetched(itertools.count()):
        if item == 3:
            break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
