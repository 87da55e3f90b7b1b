# SPDX-License-Identifier: Apache-2.0
"""End of a training after a given time, its last validation, and its progress by steps and by time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import distributed

from ..core.errors import InputError
from .distributed.processes import world_size

logger = logging.getLogger(__name__)


class TimeLimit:
    """Handler of a trainer that ends it by time, counts the time over interrupted parts, and validates after the last step.

    The last epoch is validated whatever the interval of validations, so that weights of a short training are scored and saved.

    Ignite's ``TimeLimit`` counts from its construction, which here includes the loading of the data, and starts at zero in a
    resumed run. The time of this handler begins with the first step and is saved in the state of the run. Attach it directly
    after the ``ValidationHandler``.

    Args:
        minutes: time of training, validations within it included; None for no limit.
        evaluator: engine that validates; it runs after the last step where it has not.

    Raises:
        InputError: for a time that is not positive.
    """

    def __init__(self, minutes: float | None = None, evaluator: Engine | None = None) -> None:
        if minutes is not None and not minutes > 0:
            raise InputError(f"max_minutes={minutes}: must be greater than 0, or null for no limit")
        self.minutes, self.evaluator = minutes, evaluator
        self.reached = False
        self._before, self._start = 0.0, time.monotonic()
        self._elapsed = 0.0  # after the last step, in every process the same
        self._validated = -1
        self._trainer: Engine | None = None

    @property
    def seconds(self) -> float:
        """Time of training so far, over all parts of the run."""
        return self._before + time.monotonic() - self._start

    def progress(self, engine: Engine) -> float:
        """Completed fraction of the training, 0 to 1: by steps or by time, whichever is larger."""
        total = (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
        steps = engine.state.iteration / total
        return min(1.0, steps if self.minutes is None else max(steps, self._elapsed / (60 * self.minutes)))

    def state_dict(self) -> dict[str, Any]:
        """Return the time used."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the time used."""
        self._before, self._start = float(state["seconds"]), time.monotonic()
        self._elapsed = self._before

    def attach(self, engine: Engine) -> None:
        """Register at a trainer, as its ``time_limit``, by which ``TrainingState`` finds it."""
        self._trainer = engine
        engine.time_limit = self  # type: ignore[attr-defined]
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._mark_validated)

    def _begin(self, engine: Engine) -> None:
        self._start = time.monotonic()

    def _step(self, engine: Engine) -> None:
        if self.minutes is None or self.reached:
            return
        self._elapsed = self.seconds
        if world_size() > 1:  # clocks differ; learning rate and number of steps must not, or the weights of the processes would
            shared = torch.tensor(self._elapsed, dtype=torch.float64, device=engine.state.device)
            distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
            self._elapsed = float(shared)
        if self._elapsed < 60 * self.minutes:
            return
        self.reached = True
        engine.state.max_epochs = engine.state.epoch
        engine.state.ended_by = f"max_minutes={self.minutes:g} reached after {engine.state.iteration} steps"  # type: ignore[attr-defined]
        engine.terminate_epoch()

    def _mark_validated(self, evaluator: Engine) -> None:
        assert self._trainer is not None
        self._validated = self._trainer.state.epoch

    def _epoch(self, engine: Engine) -> None:
        last = self.reached or engine.state.epoch == engine.state.max_epochs
        if getattr(engine.state, "stopped_by", None) or self.evaluator is None or self.evaluator.state.epoch_length == 0:
            return
        if last and self._validated != engine.state.epoch:
            self.evaluator.run(engine.state.epoch)  # type: ignore[arg-type]  # MONAI's evaluator takes the number of the epoch
