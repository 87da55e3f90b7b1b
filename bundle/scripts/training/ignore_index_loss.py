# SPDX-License-Identifier: Apache-2.0
"""Ignore index for any segmentation loss."""

from __future__ import annotations

import torch
from torch import nn

CERTAIN_LOGIT = 20.0  # the softmax is 1 - 2e-9: no loss and no gradient


class IgnoreIndexLoss(nn.Module):
    """Segmentation loss that excludes the voxels with ``ignore_index``.

    There, prediction and target are both replaced by certain background, so that these voxels add nothing to overlap or
    cross-entropy and receive no gradient. Averages over voxels still count them.

    Args:
        loss: loss of logits (B, C, *size) and labels (B, 1, *size).
        ignore_index: value of the label that is excluded.
        classes: number of leading output channels that the loss receives; None: all.
    """

    def __init__(self, loss: nn.Module, ignore_index: int = 255, classes: int | None = None) -> None:
        super().__init__()
        self.loss, self.ignore_index, self.classes = loss, ignore_index, classes

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, C, *size) against labels (B, 1, *size)."""
        prediction = prediction[:, : self.classes]
        valid = target != self.ignore_index
        background = torch.zeros_like(prediction)
        background.select(1, 0).fill_(CERTAIN_LOGIT)
        return self.loss(torch.where(valid, prediction, background), torch.where(valid, target, torch.zeros_like(target)))
