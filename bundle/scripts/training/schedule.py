# SPDX-License-Identifier: Apache-2.0
"""Learning rate with warm-up and cosine that follows the progress of a training, by steps or by time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..core.errors import InputError


class WarmupCosine(LRScheduler):
    """Linear warm-up over a number of steps, times a half cosine of the progress: 1 at its start, ``final`` at its end.

    The cosine is that of Loshchilov and Hutter 2017 (arXiv:1608.03983), over the progress instead of the number of steps, which is
    not known in advance in a training that ends by time.

    Args:
        optimizer: optimizer whose learning rate is changed.
        warmup: steps of the warm-up.
        final: factor of the learning rate at the end.

    Raises:
        InputError: for a number out of range.
    """

    def __init__(self, optimizer: Optimizer, warmup: int = 200, final: float = 0.0) -> None:
        if warmup < 0:
            raise InputError(f"lr_scheduler::warmup={warmup}: must be 0 or more steps")
        if not 0 <= final <= 1:
            raise InputError(f"lr_scheduler::final={final}: must be a factor from 0 to 1")
        self.warmup, self.final, self.progress = warmup, final, 0.0
        super().__init__(optimizer)

    def step(self, progress: float | None = None) -> None:  # type: ignore[override]
        """Set the learning rate of the next step.

        Args:
            progress: completed fraction of the training, 0 to 1; None, after a validation, changes nothing.
        """
        if progress is None and self.last_epoch >= 0:
            return
        self.progress = min(max(float(progress or 0.0), 0.0), 1.0)
        super().step()

    def get_lr(self) -> list[float]:
        """Learning rates of the groups of parameters."""
        warm = min(1.0, (self.last_epoch + 1) / self.warmup) if self.warmup else 1.0
        cosine = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * self.progress))
        return [base * warm * cosine for base in self.base_lrs]


def load_state(item: Any, state: Mapping[str, Any]) -> None:
    """Load the state of an object with a ``state_dict``.

    A cosine keeps the length of this run: over that of a shorter one its rate would rise again after the end. Its optimizer, whose
    state is loaded before, gets the rate of the longer cosine.

    Args:
        item: object, such as a network, an optimizer or a schedule.
        state: its state.
    """
    length = getattr(item, "T_max", None)
    item.load_state_dict(state)
    if length is None or item.T_max == length:
        return
    item.T_max = length
    item._last_lr = item._get_closed_form_lr()
    for group, rate in zip(item.optimizer.param_groups, item._last_lr, strict=True):
        group["lr"] = rate
