# SPDX-License-Identifier: Apache-2.0
"""Outputs of the initial weights as further targets, so that outputs without labels stay as they are in a fine-tuning."""

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
from .checkpoint_shape import auxiliary_outputs_of
from .distributed.synchronous import gathered
from .output_targets import IGNORED, target_table
from .precision import CpuBfloat16

WHERE = ("vertebrae", "unlabelled")
REMEDY = "leave out configs/distillation.yaml"


def teacher_of(
    network: nn.Module, checkpoint: str | None, outputs: Sequence[str] | str, trained: nn.Module | None = None
) -> nn.Module:
    """Frozen copy of a network with its initial weights, in evaluation mode.

    Args:
        network: network after its initial weights were loaded.
        checkpoint: file of these weights.
        outputs: names of the distilled outputs.
        trained: network as the trainer has it, whose precision the copy has as well.

    Raises:
        InputError: without a checkpoint, or for an output that its weights do not have: random weights are no target.
    """
    if checkpoint is None:
        raise InputError(f"init_checkpoint=None: distillation needs initial weights; give --init_checkpoint FILE, or {REMEDY}")
    has = (*OUTPUTS[FRACTURE:NUM_CLASSES], *auxiliary_outputs_of(checkpoint))
    for name in distilled(outputs):
        if name not in has:
            raise InputError(
                f"distilled_outputs={distilled(outputs)}: {checkpoint} has no output {name!r}; its outputs are {', '.join(has)}"
            )
    teacher = deepcopy(network).requires_grad_(False).eval()
    low = trained is not None and any(isinstance(m, CpuBfloat16) for m in trained.modules())
    return CpuBfloat16(teacher).eval() if low else teacher


def distilled(outputs: Sequence[str] | str) -> list[str]:
    """Names of the distilled outputs.

    Raises:
        InputError: for no name or an unknown one.
    """
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    if not names:
        raise InputError(f"distilled_outputs=[]: must name an output, or {REMEDY}")
    for name in names:
        if name not in OUTPUTS[FRACTURE:]:
            raise InputError(f"distilled_outputs={names}: {name!r} must be one of {', '.join(OUTPUTS[FRACTURE:])}")
    return names


class DistillationLoss(nn.Module):
    """Loss against labels plus the divergence from a teacher's probabilities in vertebrae.

    Learning without forgetting (doi 10.1109/TPAMI.2017.2773081) with temperature 1. As a handler of the trainer it runs the teacher
    on every batch, after the forward pass of the network.

    Args:
        loss: loss of logits (B, C, *size) and codes (B, 1, *size) of ``OutputTargetsd``.
        teacher: network that the targets are taken from, see ``teacher_of``.
        outputs: names of the distilled outputs.
        weight: weight of the divergence beside the loss.
        where: "vertebrae" for all labelled vertebrae, "unlabelled" for those whose label of the output is unknown, so that labels
            are the only target of the others.

    Raises:
        InputError: for a weight that is not positive, the name of an unknown output, or another ``where``.
    """

    def __init__(
        self,
        loss: nn.Module,
        teacher: nn.Module,
        outputs: Sequence[str] | str = ("fracture",),
        weight: float = 1.0,
        where: str = "vertebrae",
    ) -> None:
        super().__init__()
        self.channels = [OUTPUTS.index(name) for name in distilled(outputs)]
        if weight <= 0:
            raise InputError(f"distillation_weight={weight}: must be greater than 0, or {REMEDY}")
        if where not in WHERE:
            raise InputError(f"distilled_where={where}: must be {' or '.join(WHERE)}")
        if where == "unlabelled" and "vertebra" in distilled(outputs):
            raise InputError(f"distilled_outputs={distilled(outputs)}: the label of 'vertebra' is never unknown; leave it out")
        self.loss, self.weight = loss, float(weight)
        for channel in self.channels:  # by code: a distilled voxel of a vertebra
            codes = torch.tensor([0 < code != IGNORED for code in range(256)])
            known = target_table(OUTPUTS[channel]) != IGNORED
            self.register_buffer(f"_inside{channel}", codes & ~known if where == "unlabelled" else codes, persistent=False)
        self._teacher = (teacher,)  # no submodule: its weights are no part of the loss
        self._logits: torch.Tensor | None = None

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._predict)

    def _predict(self, engine: Engine) -> None:
        image = engine.state.output[CommonKeys.IMAGE]  # type: ignore[index]
        with torch.no_grad():
            self._logits = gathered(self._teacher[0](image))  # the loss of several processes is that of the global batch

    def divergence(self, prediction: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean divergence of the distilled outputs in the distilled vertebrae; 0 without one.

        Args:
            prediction: logits (B, C, *size) of the network.
            teacher: logits of the teacher.
            target: codes (B, 1, *size).
        """
        self.to(prediction.device)  # once: a copy in every step waits for the device
        codes = target.long()
        total = voxels = prediction.new_zeros((), dtype=torch.float32)
        for channel in self.channels:
            student, expected = (_logit(x.float(), channel) for x in (prediction, teacher))
            probability = expected.sigmoid()
            entropy = f.binary_cross_entropy_with_logits(expected, probability, reduction="none")
            each = f.binary_cross_entropy_with_logits(student, probability, reduction="none") - entropy
            weights = getattr(self, f"_inside{channel}")[codes].float()  # half precision cannot count the voxels of a batch
            total, voxels = total + (each * weights).sum(), voxels + weights.sum()
        return total / voxels.clamp(min=1)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss and weighted divergence.

        Raises:
            RuntimeError: when it is no handler of the trainer, so that there is nothing to diverge from.
        """
        if self._logits is None:
            raise RuntimeError("DistillationLoss: must also be a handler of the trainer, as in configs/distillation.yaml")
        logits, self._logits = self._logits, None
        return self.loss(prediction, target) + self.weight * self.divergence(prediction, logits, target)


def _logit(logits: torch.Tensor, channel: int) -> torch.Tensor:
    """Logit (B, 1, *size) of an output: of the two classes their difference, whose sigmoid is the softmax."""
    if channel < NUM_CLASSES:
        return logits[:, FRACTURE:VERTEBRA] - logits[:, :FRACTURE]
    return logits[:, channel : channel + 1]
