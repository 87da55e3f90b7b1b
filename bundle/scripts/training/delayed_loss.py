# SPDX-License-Identifier: Apache-2.0
"""Loss of the step before, read without waiting for the step in progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine


@dataclass
class _Pending:
    """Loss on its way to the host, and the step it belongs to."""

    value: torch.Tensor
    event: Any
    batch: Any
    step: tuple[int, int]

    def read(self, engine: Engine) -> torch.Tensor:
        """Wait for the loss and name its step in the state of the engine."""
        if self.event is not None:
            self.event.synchronize()
        engine.state.loss_batch, engine.state.loss_step = self.batch, self.step  # type: ignore[attr-defined]
        return self.value


class DelayedLoss:
    """Copy of every loss to the host beside the next step.

    In the state of the engine, ``loss_batch`` and ``loss_step`` (epoch, iteration) belong to the loss that is returned.
    """

    def __init__(self) -> None:
        self._pending: _Pending | None = None

    def __call__(self, engine: Engine, loss: torch.Tensor, batch: Any, wait: bool = False) -> torch.Tensor:
        """Return the loss of the step before as a scalar on the host; with ``wait`` or without a step before, that of this one."""
        before, self._pending = self._pending, self._copy(engine, loss, batch)
        return (self._pending if wait or before is None else before).read(engine)

    def forget(self, engine: Engine) -> None:
        """Drop the loss on its way, as a step reports its own; ``loss_batch`` and ``loss_step`` are those of that step."""
        self._pending = None
        engine.state.loss_batch = engine.state.batch  # type: ignore[attr-defined]
        engine.state.loss_step = (engine.state.epoch, engine.state.iteration)  # type: ignore[attr-defined]

    @staticmethod
    def _copy(engine: Engine, loss: torch.Tensor, batch: Any) -> _Pending:
        cuda = loss.is_cuda
        value = torch.empty((), dtype=torch.float32, pin_memory=cuda)
        value.copy_(loss.detach(), non_blocking=True)
        event = None
        if cuda:
            event = torch.cuda.Event()
            event.record()
        return _Pending(value, event, batch, (engine.state.epoch, engine.state.iteration))
