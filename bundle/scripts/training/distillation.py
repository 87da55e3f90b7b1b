# SPDX-License-Identifier: Apache-2.0
"""Outputs of the initial weights as further targets, so that a fine-tuning does not forget what its labels do not contain."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.utils import CommonKeys
from torch import nn
from torch.nn import functional as f

from ..core.errors import InputError
from ..networks.outputs import FRACTURE, NUM_CLASSES, OUTPUTS, VERTEBRA
from .output_targets import IGNORED
from .precision import low_precision

REMEDY = "leave out configs/distillation.yaml"


def teacher_of(network: nn.Module, checkpoint: str | None) -> nn.Module:
    """Frozen copy of a network with its initial weights, in evaluation mode.

    Args:
        network: network after its initial weights were loaded.
        checkpoint: file of these weights.

    Raises:
        InputError: without a checkpoint: random weights are no target.
    """
    if checkpoint is None:
        raise InputError(f"init_checkpoint=None: distillation needs initial weights; give --init_checkpoint FILE, or {REMEDY}")
    return low_precision(deepcopy(network).requires_grad_(False)).eval()


class DistillationLoss(nn.Module):
    """Loss against labels plus the divergence from a teacher's probabilities in the labelled vertebrae.

    Learning without forgetting (doi 10.1109/TPAMI.2017.2773081) with temperature 1. As a handler of the trainer it runs the teacher
    on every batch, after the forward pass of the network.

    Args:
        loss: loss of logits (B, C, *size) and codes (B, 1, *size) of ``OutputTargetsd``.
        teacher: network that the targets are taken from, see ``teacher_of``.
        outputs: names of the distilled outputs.
        weight: weight of the divergence beside the loss.

    Raises:
        InputError: for a weight that is not positive, or the name of an unknown output.
    """

    def __init__(self, loss: nn.Module, teacher: nn.Module, outputs: Sequence[str] = ("fracture",), weight: float = 1.0) -> None:
        super().__init__()
        given = [outputs] if isinstance(outputs, str) else list(outputs)
        for name in given:
            if name not in OUTPUTS[FRACTURE:]:
                raise InputError(f"distilled_outputs={given}: {name!r} must be one of {', '.join(OUTPUTS[FRACTURE:])}")
        if not given:
            raise InputError(f"distilled_outputs=[]: must name an output, or {REMEDY}")
        if weight <= 0:
            raise InputError(f"distillation_weight={weight}: must be greater than 0, or {REMEDY}")
        self.loss, self.weight = loss, float(weight)
        self.channels = [OUTPUTS.index(name) for name in given]
        self._teacher = (teacher,)  # no submodule: its weights are no part of the loss
        self._logits: torch.Tensor | None = None

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._predict)

    def _predict(self, engine: Engine) -> None:
        image = engine.state.output[CommonKeys.IMAGE]  # type: ignore[index]
        with torch.no_grad():
            self._logits = self._teacher[0](image)

    def divergence(self, prediction: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean divergence of the distilled outputs in vertebrae; 0 without one.

        Args:
            prediction: logits (B, C, *size) of the network.
            teacher: logits of the teacher.
            target: codes (B, 1, *size).

        Raises:
            InputError: when the network does not have a distilled output.
        """
        missing = [OUTPUTS[c] for c in self.channels if c >= prediction.shape[1]]
        if missing:
            raise InputError(f"distilled_outputs: the network has no output {missing[0]!r}; add it to auxiliary_outputs")
        inside = ((target > 0) & (target != IGNORED)).to(prediction.dtype)
        total = prediction.new_zeros(())
        for channel in self.channels:
            student, expected = (_logit(x.float(), channel) for x in (prediction, teacher))
            probability = expected.sigmoid()
            entropy = f.binary_cross_entropy_with_logits(expected, probability, reduction="none")
            total = total + ((f.binary_cross_entropy_with_logits(student, probability, reduction="none") - entropy) * inside).sum()
        return total / (inside.sum() * len(self.channels)).clamp(min=1)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss and weighted divergence.

        Raises:
            RuntimeError: when it is no handler of the trainer, so that there is nothing to diverge from.
        """
        if self._logits is None:
            raise RuntimeError("DistillationLoss: must also be a handler of the trainer")
        logits, self._logits = self._logits, None
        return self.loss(prediction, target) + self.weight * self.divergence(prediction, logits, target)


def _logit(logits: torch.Tensor, channel: int) -> torch.Tensor:
    """Logit (B, 1, *size) of an output: of the two classes their difference, whose sigmoid is the softmax."""
    if channel < NUM_CLASSES:
        return logits[:, FRACTURE:VERTEBRA] - logits[:, :FRACTURE]
    return logits[:, channel : channel + 1]
