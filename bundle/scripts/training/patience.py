# SPDX-License-Identifier: Apache-2.0
"""Early stopping and learning rate by validations without improvement, which count after a warm-up only."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from monai.handlers import EarlyStopHandler, LrScheduleHandler
from monai.utils import ensure_tuple
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..core.errors import InputError
from .validation_score import key_score


def counts(evaluator: Engine, warmup: int) -> bool:
    """Return whether a validation counts for patience: after the warm-up, and once a fracture has been marked.

    Until then a network is at the background that most voxels are, where scores do not change and a lower rate would keep it.

    Args:
        evaluator: engine that validates; its epoch is that of the trainer.
        warmup: epochs of the warm-up.
    """
    return evaluator.state.epoch > warmup and evaluator.state.best_metric > 0  # type: ignore[attr-defined]


def _checked(warmup: int) -> int:
    if warmup < 0:
        raise InputError(f"warmup_epochs={warmup}: must be 0 or more epochs")
    return int(warmup)


class EarlyStop(EarlyStopHandler):
    """MONAI's early stopping by the key metric of an evaluator, whose patience counts after a warm-up, see ``counts``.

    The score that is to be improved is the best of all validations, those of the warm-up included.

    Args:
        patience: validations without improvement before the training ends.
        warmup: epochs of the warm-up.
        options: further arguments of ``EarlyStopHandler``.

    Raises:
        InputError: for a number out of range.
    """

    def __init__(self, patience: int, warmup: int = 0, **options: Any) -> None:
        if patience < 1:
            raise InputError(f"patience={patience}: must be at least 1 validation, or null for no early stopping")
        super().__init__(patience=patience, **{"score_function": key_score, **options})
        self.warmup = _checked(warmup)

    def __call__(self, engine: Engine) -> None:
        """Count a validation."""
        if counts(engine, self.warmup):
            super().__call__(engine)
        elif self._handler is not None:
            score = self._handler.score_function(engine)
            if self._handler.best_score is None or score > self._handler.best_score:
                self._handler.best_score = score


class LearningRate(LrScheduleHandler):
    """MONAI's handler of a learning rate; where it follows a plateau, validations count after a warm-up, see ``counts``.

    Args:
        lr_scheduler: scheduler; any other than ``ReduceLROnPlateau`` makes a step in every validation.
        warmup: epochs of the warm-up.
        options: further arguments of ``LrScheduleHandler``.

    Raises:
        InputError: for a number out of range.
    """

    def __init__(self, lr_scheduler: Any, warmup: int = 0, **options: Any) -> None:
        super().__init__(lr_scheduler, **{"print_lr": False, **options})
        self.warmup = _checked(warmup)

    def __call__(self, engine: Engine) -> None:
        """Make a step of the scheduler."""
        scheduler = self.lr_scheduler
        if not isinstance(scheduler, ReduceLROnPlateau) or counts(engine, self.warmup):
            super().__call__(engine)
            return
        # A step that is no improvement could reduce the rate, whatever the patience.
        score = float(ensure_tuple(self.step_transform(engine))[0])
        scheduler.best = max(score, scheduler.best) if scheduler.mode == "max" else min(score, scheduler.best)
