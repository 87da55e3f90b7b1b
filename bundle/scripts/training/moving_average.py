# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of the weights of a training, whose memory grows with the training."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..core.errors import InputError


class MovingAverage(EMAHandler):
    """Ignite's moving average of weights and running statistics, with a momentum that follows from the number of the step.

    After step t the momentum is ``1 / (memory * t)``, at most 1 and at least ``min_momentum``: the average spans the last
    ``memory`` of the steps so far, whatever the budget, and forgets the initial weights after the first steps. It depends on
    nothing but the step, so that a resumed training equals an uninterrupted one when ``ema_model`` is restored
    (``stateful_objects``).

    Args:
        model: network that is trained.
        memory: fraction of the steps so far that the average spans.
        min_momentum: smallest momentum; its inverse is the largest number of steps that the average spans.

    Raises:
        InputError: for a number out of range.
    """

    def __init__(self, model: nn.Module, memory: float = 0.1, min_momentum: float = 0.0005) -> None:
        for name, value in (("memory", memory), ("min_momentum", min_momentum)):
            if not 0 < value < 1:
                raise InputError(f"moving_average::{name}={value}: must be greater than 0 and less than 1")
        super().__init__(model, momentum=min_momentum, handle_buffers="update")
        self.memory = memory

    def attach(self, engine: Engine, name: str = "ema_momentum", **kwargs: Any) -> None:  # type: ignore[override]
        """Register at a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._set_momentum, name)
        setattr(engine.state, name, 1.0)
        super().attach(engine, name, warn_if_exists=False, **kwargs)

    def _set_momentum(self, engine: Engine, name: str) -> None:
        spanned = self.memory * engine.state.iteration
        setattr(engine.state, name, max(self.momentum, min(1.0, 1.0 / spanned)))

    def _update_ema_model(self, engine: Engine, name: str) -> None:
        """Update all weights and running statistics in few operations; counters are copied."""
        update = get_ema_multi_avg_fn(1.0 - getattr(engine.state, name))
        average, current = ([*m.parameters(), *m.buffers()] for m in (self.ema_model, self.model))
        pairs = [(a.detach(), c.detach()) for a, c in zip(average, current, strict=True)]
        floating = [(a, c) for a, c in pairs if a.is_floating_point()]
        update([a for a, _ in floating], [c for _, c in floating], 0)
        for a, c in pairs:
            if not a.is_floating_point():
                a.copy_(c)
