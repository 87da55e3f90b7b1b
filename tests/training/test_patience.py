# SPDX-License-Identifier: Apache-2.0
"""Validations count for early stopping and for the learning rate after a warm-up, and once a fracture has been marked."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from scripts.core.errors import InputError
from scripts.training.patience import EarlyStop, LearningRate
from scripts.training.validation_score import key_score


def train(scores: list[float], warmup: int, patience: int = 2, lr_patience: int = 0, optimizer=None) -> tuple[int, list[float]]:
    """Number of epochs of a training with these scores, and the learning rate after each."""
    trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=lr_patience)
    evaluator.state.key_metric_name, evaluator.state.best_metric, rates = "score", -1.0, []
    stop, rate = EarlyStop(patience, warmup), LearningRate(plateau, warmup, step_transform=key_score)
    stop.set_trainer(trainer)

    def validate(engine: Engine) -> None:  # as MONAI's evaluator: its epoch is that of the trainer
        evaluator.state.epoch = engine.state.epoch
        value = scores[engine.state.epoch - 1]
        evaluator.state.metrics = {"score": value}
        evaluator.state.best_metric = max(value, evaluator.state.best_metric)
        rate(evaluator)
        stop(evaluator)
        rates.append(optimizer.param_groups[0]["lr"])

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    trainer.run([0], max_epochs=len(scores))
    return len(rates), rates


def test_nothing_counts_before_a_fracture_is_marked():
    assert train([0.0] * 30, warmup=0) == (30, [1.0] * 30)


def test_nothing_counts_within_the_warmup():
    done, rates = train([0.5] * 20, warmup=10)
    assert done == 12
    assert rates[:10] == [1.0] * 10
    assert rates[10:] == [0.5, 0.25]


def test_without_warmup_the_first_mark_begins_the_count():
    done, rates = train([0.0, 0.0, 0.0, 0.4, 0.3, 0.3, 0.3], warmup=0)
    assert done == 6
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.25]


def test_scores_of_the_warmup_are_to_be_improved():
    done, rates = train([0.2, 0.8, 0.5, 0.5, 0.6, 0.7], warmup=2)
    assert done == 4
    assert rates[2:] == [0.5, 0.25]


def test_improvements_reset_the_count():
    assert train([0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.4, 0.4], warmup=0)[0] == 8


def test_other_schedulers_step_in_every_validation():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    handler = LearningRate(schedule, warmup=100)
    engine = Engine(lambda *_: None)
    engine.state.best_metric = -1.0
    for expected in (0.5, 0.25):
        handler(engine)
        assert optimizer.param_groups[0]["lr"] == expected


def test_numbers_out_of_range_are_refused():
    with pytest.raises(InputError, match="patience=0: must be at least 1 validation, or null"):
        EarlyStop(0)
    with pytest.raises(InputError, match="warmup_epochs=-1: must be 0 or more"):
        EarlyStop(3, warmup=-1)
