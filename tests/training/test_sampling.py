# SPDX-License-Identifier: Apache-2.0
"""Epochs of a fixed number of cases: every case equally often, no draw repeated, shared by processes, resumed within."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scripts.training.sampling import EpochSampler


def epochs(n: int, count: int, **options) -> list[list[int]]:
    sampler, drawn = EpochSampler(range(n), seed=3, **options), []
    for sampler.epoch in range(1, count + 1):
        drawn.append(list(sampler))
    return drawn


@pytest.mark.parametrize(("n", "cases"), [(1, 7), (3, 100), (5, 5), (5, 13), (40, 12), (40, 1)])
def test_every_case_occurs_equally_often(n, cases):
    drawn = epochs(n, 9, cases=cases)
    assert [len(items) for items in drawn] == [cases] * 9
    everything = [item for items in drawn for item in items]
    counts = Counter(item % n for item in everything)
    often = [counts[i] for i in range(n)]
    assert max(often) - min(often) <= 1
    assert len(set(everything)) == len(everything)  # each draw has a seed of its own


def test_an_epoch_of_one_pass_is_that_of_former_versions():
    for number, items in enumerate(epochs(7, 4), start=1):
        order = np.random.default_rng([3, number]).permutation(7)
        assert items == [number * 7 + int(i) for i in order]
    assert epochs(7, 4) == epochs(7, 4, cases=7)


def test_epochs_of_any_length_are_parts_of_one_sequence():
    whole = [item for items in epochs(5, 6) for item in items]
    assert [item for items in epochs(5, 2, cases=15) for item in items] == whole
    assert [item for items in epochs(5, 15, cases=2) for item in items] == whole


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_every_batch(count):
    whole = epochs(5, 3, cases=24)
    parts = [epochs(5, 3, cases=24, batch_size=12 // count, rank=r, world_size=count) for r in range(count)]
    for number, items in enumerate(whole):
        for step in (0, 1):
            mine = [part[number][step * 12 // count : (step + 1) * 12 // count] for part in parts]
            assert [item for items in mine for item in items] == items[12 * step : 12 * (step + 1)]


def test_an_interrupted_epoch_is_resumed_at_its_case():
    sampler = EpochSampler(range(4), seed=1, cases=10)
    sampler.epoch = 3
    whole = list(sampler)
    sampler.start = 6
    assert list(sampler) == whole[6:]
    assert len(sampler) == 10


def test_an_empty_epoch_is_refused():
    with pytest.raises(ValueError, match="cases=0; must be at least 1"):
        EpochSampler(range(3), cases=0)
    assert list(EpochSampler([], cases=10)) == []
