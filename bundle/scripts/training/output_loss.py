# SPDX-License-Identifier: Apache-2.0
"""Loss of a network with named outputs: one term per output, against the targets of ``OutputTargetsd``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..core.errors import InputError
from ..networks.outputs import AUXILIARY, NUM_CLASSES, OUTPUTS
from .output_targets import IGNORED, target_table


class OutputLoss(nn.Module):
    """Loss of fracture plus weighted losses of the auxiliary outputs, each against all other tissue.

    Args:
        loss: loss of two-class logits (B, 2, *size) and labels (B, 1, *size) with an ignore index, for every term.
        weight: weight of every auxiliary output.
        weights: weights by the name of an output, in place of ``weight``; that of fracture is 1.

    Raises:
        InputError: for a weight that is not positive, the name of an unknown output, or a loss with another ignore index than
            the targets.
    """

    def __init__(self, loss: nn.Module, weight: float = 0.5, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = {"fracture": 1.0, **dict.fromkeys(AUXILIARY, weight), **dict(weights or {})}
        for name, value in self.weights.items():
            if name not in OUTPUTS[1:]:
                raise InputError(f"vertebra_loss: weights of {name!r}; must be of {', '.join(OUTPUTS[1:])}")
            if value <= 0:
                raise InputError(
                    f"vertebra_loss: weight={value} of {name}; must be greater than 0, or leave out configs/vertebra_loss.yaml"
                )
        ignored = getattr(loss, "ignore_index", IGNORED)
        if ignored != IGNORED:
            raise InputError(f"ignore_index={ignored}: must be {IGNORED} with configs/vertebra_loss.yaml; change it in the labels")
        self.loss = loss
        for name in self.weights:
            self.register_buffer(f"_{name}", target_table(name).float(), persistent=False)

    def terms(self, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unweighted losses by output of logits (B, C, *size) against codes (B, 1, *size).

        Raises:
            InputError: when the network has no auxiliary output.
        """
        if not NUM_CLASSES < prediction.shape[1] <= len(OUTPUTS):
            raise InputError(
                f"configs/vertebra_loss.yaml: the network has {prediction.shape[1]} outputs, expected {NUM_CLASSES + 1} to "
                f"{len(OUTPUTS)}; set auxiliary_outputs to [vertebra] or more, for other networks network_def::out_channels"
            )
        self.to(prediction.device)  # once: a copy in every step waits for the device
        codes, result = target.long(), {}
        for channel, name in enumerate(OUTPUTS[: prediction.shape[1]]):
            if name == "background":
                continue
            labels = getattr(self, f"_{name}")[codes]
            if channel < NUM_CLASSES:
                logits = prediction[:, :NUM_CLASSES]
            else:  # the sigmoid of a logit is the softmax over it and 0
                logits = torch.cat([torch.zeros_like(prediction[:, :1]), prediction[:, channel : channel + 1]], dim=1)
            result[name] = self.loss(logits, labels.to(target.dtype))
        return result

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the terms."""
        terms = self.terms(prediction, target)
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
