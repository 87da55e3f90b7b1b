# SPDX-License-Identifier: Apache-2.0
"""Warm-up and cosine over the progress of a training."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from scripts.core.errors import InputError
from scripts.training.schedule import WarmupCosine, load_state
from torch.optim.lr_scheduler import CosineAnnealingLR


def optimizer() -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.SGD([{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 0.5}], lr=1.0)


def rates(progress: list[float], **options) -> list[float]:
    item = optimizer()
    schedule = WarmupCosine(item, **options)
    result = [item.param_groups[0]["lr"]]
    for value in progress:
        schedule.step(value)
        result.append(item.param_groups[0]["lr"])
        assert item.param_groups[1]["lr"] == pytest.approx(0.5 * result[-1])
    return result


def test_warm_up_is_linear_in_steps():
    assert rates([0.0] * 5, warmup=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_cosine_follows_the_progress_not_the_steps():
    assert rates([0.5, 1.0], warmup=0) == pytest.approx([1.0, 0.5, 0.0], abs=1e-9)
    assert rates([0.5] * 3, warmup=0)[-1] == pytest.approx(0.5)
    falling = rates([k / 20 for k in range(21)], warmup=0)
    assert all(a >= b for a, b in itertools.pairwise(falling))


def test_final_factor_and_progress_beyond_the_end():
    assert rates([1.0, 3.0], warmup=0, final=0.1)[1:] == pytest.approx([0.1, 0.1])


def test_validation_changes_nothing():
    item = optimizer()
    schedule = WarmupCosine(item, warmup=10)
    schedule.step(0.2)
    before = (item.param_groups[0]["lr"], schedule.last_epoch)
    schedule.step()
    assert (item.param_groups[0]["lr"], schedule.last_epoch) == before


def test_state_restores_the_rate():
    item = optimizer()
    schedule = WarmupCosine(item, warmup=3)
    for progress in (0.1, 0.2, 0.3):
        schedule.step(progress)
    other = optimizer()
    restored = WarmupCosine(other, warmup=3)
    restored.load_state_dict(copy.deepcopy(schedule.state_dict()))
    other.load_state_dict(item.state_dict())
    for one in (schedule, restored):
        one.step(0.4)
    assert other.param_groups[0]["lr"] == item.param_groups[0]["lr"]


@pytest.mark.parametrize(("options", "words"), [({"warmup": -1}, "warmup=-1"), ({"final": 1.5}, "final=1.5")])
def test_bad_arguments_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        WarmupCosine(optimizer(), **options)


def test_a_longer_run_follows_the_longer_cosine():
    item = optimizer()
    short = CosineAnnealingLR(item, T_max=4)
    for _ in range(4):
        item.step()
        short.step()
    other = optimizer()
    longer = CosineAnnealingLR(other, T_max=8)
    load_state(other, item.state_dict())
    load_state(longer, short.state_dict())
    rates = [other.param_groups[0]["lr"]]
    for _ in range(4):
        other.step()
        longer.step()
        rates.append(other.param_groups[0]["lr"])
    assert rates == pytest.approx([(1 + math.cos(math.pi * k / 8)) / 2 for k in range(4, 9)], abs=1e-9)
    equal = optimizer()
    same = CosineAnnealingLR(equal, T_max=4)
    load_state(equal, item.state_dict())
    load_state(same, short.state_dict())
    assert same.state_dict() == short.state_dict()
