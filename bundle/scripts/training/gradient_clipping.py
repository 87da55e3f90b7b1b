# SPDX-License-Identifier: Apache-2.0
"""Upper limit of the norm of the gradients of a step."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from ..core.errors import InputError


class GradientClipping:
    """Handler of a MONAI trainer that limits the norm of all gradients together; in mixed precision after they are unscaled.

    Args:
        max_norm: largest norm; None for no limit.

    Raises:
        InputError: for a norm that is not positive.
    """

    def __init__(self, max_norm: float | None = 5.0) -> None:
        if max_norm is not None and not max_norm > 0:
            raise InputError(f"max_gradient_norm={max_norm}: must be greater than 0, or null for no limit")
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip the gradients of the optimizer's parameters in place."""
        if self.max_norm is None:
            return
        optimizer = engine.optimizer  # type: ignore[attr-defined]
        if getattr(engine, "amp", False) and getattr(engine, "scaler", None) is not None:
            engine.scaler.unscale_(optimizer)  # type: ignore[attr-defined]
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
