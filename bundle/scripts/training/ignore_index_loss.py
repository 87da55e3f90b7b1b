# SPDX-License-Identifier: Apache-2.0
"""Voxels whose truth nobody knows: neither loss nor metrics may judge them."""

from __future__ import annotations

import torch
from torch import nn

SURE_LOGIT = 20.0  # softmax gives 1 - 2e-9: no loss and no gradient


class IgnoreIndexLoss(nn.Module):
    """Give any segmentation loss an ignore value.

    Where the target holds ``ignore_index``, prediction and target are both replaced by background that is sure and right, so that
    these voxels add nothing to overlap or cross-entropy and receive no gradient. Averages over voxels still count them.

    Args:
        loss: loss of logits (B, C, *size) and labels (B, 1, *size).
        ignore_index: value of the label that is left out.
        classes: outputs that are classes; those behind them are none of this loss's business. None: all.
    """

    def __init__(self, loss: nn.Module, ignore_index: int = 255, classes: int | None = None) -> None:
        super().__init__()
        self.loss, self.ignore_index, self.classes = loss, ignore_index, classes

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, C, *size) against labels (B, 1, *size)."""
        prediction = prediction[:, : self.classes]
        known = target != self.ignore_index
        sure = torch.zeros_like(prediction)
        sure[:, 0] = SURE_LOGIT
        return self.loss(torch.where(known, prediction, sure), torch.where(known, target, torch.zeros_like(target)))
