# SPDX-License-Identifier: Apache-2.0
"""A training ends by time, with a validation, and counts the time over interrupted parts."""

from __future__ import annotations

import pytest
from ignite.engine import Engine, Events
from scripts.core.errors import InputError
from scripts.training import time_limit
from scripts.training.time_limit import TimeLimit


class Clock:
    """Clock that a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Evaluator(Engine):
    """Engine whose run takes the epoch, as MONAI's evaluators."""

    def __init__(self) -> None:
        super().__init__(lambda engine, batch: None)
        self.epochs: list[int] = []

    def run(self, epoch: int) -> None:  # type: ignore[override]
        self.epochs.append(epoch)
        self.fire_event(Events.COMPLETED)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    item = Clock()
    monkeypatch.setattr(time_limit, "time", item)
    return item


def trainer_of(clock: Clock, handler: TimeLimit, seconds: float = 10.0) -> tuple[Engine, list[float]]:
    progress: list[float] = []

    def step(engine, batch):
        clock.now += seconds

    trainer = Engine(step)
    handler.attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: progress.append(handler.progress(engine)))
    return trainer, progress


def test_training_ends_after_its_time(clock):
    evaluator = Evaluator()
    handler = TimeLimit(1.0, evaluator)
    trainer, progress = trainer_of(clock, handler)
    trainer.run(range(4), max_epochs=100)
    assert trainer.state.iteration == 6
    assert trainer.state.epoch == 2
    assert evaluator.epochs == [2]
    assert progress == pytest.approx([k / 6 for k in range(1, 7)])
    assert "max_minutes=1" in trainer.state.ended_by


def test_a_validation_of_the_last_epoch_is_not_repeated(clock):
    evaluator = Evaluator()
    handler = TimeLimit(1.0, evaluator)
    trainer, _ = trainer_of(clock, handler)
    # Before the handler, as a ValidationHandler is.
    trainer._event_handlers[Events.EPOCH_COMPLETED].insert(0, (lambda e: evaluator.run(e.state.epoch), (trainer,), {}))
    trainer.run(range(3), max_epochs=100)
    assert evaluator.epochs == [1, 2]


def test_the_last_epoch_is_validated_without_a_limit(clock):
    evaluator = Evaluator()
    trainer, _ = trainer_of(clock, TimeLimit(None, evaluator))
    trainer.run(range(2), max_epochs=3)
    assert evaluator.epochs == [3]


def test_a_stopped_training_has_no_last_validation(clock):
    evaluator = Evaluator()
    trainer, _ = trainer_of(clock, TimeLimit(None, evaluator))
    trainer.state.stopped_by = "SIGTERM"
    trainer.run(range(2), max_epochs=1)
    assert evaluator.epochs == []


def test_without_limit_progress_is_that_of_the_steps(clock):
    handler = TimeLimit(None)
    trainer, progress = trainer_of(clock, handler, seconds=1e6)
    trainer.run(range(5), max_epochs=2)
    assert trainer.state.iteration == 10
    assert progress == pytest.approx([k / 10 for k in range(1, 11)])
    assert not handler.reached


def test_epochs_can_end_before_the_time(clock):
    handler = TimeLimit(60.0)
    trainer, progress = trainer_of(clock, handler)
    trainer.run(range(5), max_epochs=2)
    assert trainer.state.iteration == 10
    assert progress[-1] == 1.0
    assert not handler.reached


def test_time_of_former_parts_counts(clock):
    handler = TimeLimit(1.0)
    trainer, _ = trainer_of(clock, handler)
    trainer.run(range(3), max_epochs=1)
    state = handler.state_dict()
    clock.now += 1e6  # between the parts
    resumed = TimeLimit(1.0)
    trainer, _ = trainer_of(clock, resumed)
    trainer.add_event_handler(Events.STARTED, lambda engine: resumed.load_state_dict(state))
    trainer.run(range(100), max_epochs=1)
    assert state["seconds"] == pytest.approx(30.0)
    assert trainer.state.iteration == 3


def test_processes_have_one_progress(clock, monkeypatch):
    """The time of the slowest process counts in all, so that learning rates are equal."""
    monkeypatch.setattr(time_limit, "world_size", lambda: 2)
    monkeypatch.setattr(time_limit.distributed, "all_reduce", lambda value, op: value.add_(5.0))  # the other one began 5 s earlier
    handler = TimeLimit(1.0)
    trainer, progress = trainer_of(clock, handler)
    trainer.state.device = "cpu"
    trainer.run(range(100), max_epochs=1)
    assert progress[:5] == pytest.approx([(10 * k + 5) / 60 for k in range(1, 6)])
    assert trainer.state.iteration == 6


def test_loading_of_data_does_not_count(clock):
    handler = TimeLimit(1.0)
    clock.now += 1e6
    trainer, _ = trainer_of(clock, handler)
    trainer.run(range(100), max_epochs=1)
    assert trainer.state.iteration == 6


@pytest.mark.parametrize("minutes", [0.0, -3.0, float("nan")])
def test_a_time_is_positive(minutes):
    with pytest.raises(InputError, match="max_minutes"):
        TimeLimit(minutes)
