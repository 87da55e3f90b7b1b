# SPDX-License-Identifier: Apache-2.0
"""Ensemble of networks that averages their probabilities."""

from __future__ import annotations

import copy

import torch
from torch import nn

from .outputs import NUM_CLASSES


class MeanEnsemble(nn.Module):
    """Mean of the probabilities of copies of a network, such as those of the folds of a cross-validation.

    Args:
        network: network that the members are copies of.
        members: number of copies; their weights are loaded afterwards, member by member.
        num_classes: channels of the softmax; each further channel is the logit of a sigmoid.

    Raises:
        ValueError: when ``members`` is below 1.
    """

    def __init__(self, network: nn.Module, members: int, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"MeanEnsemble: members={members}; must be 1 or more, the number of checkpoints.")
        self.num_classes = num_classes
        self.members = nn.ModuleList(copy.deepcopy(network) for _ in range(members))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *size) to logits (B, K, *size), whose softmax and sigmoids are the mean probabilities.

        The first ``num_classes`` channels are logarithms of mean softmax probabilities, the others logits of mean sigmoid
        probabilities.
        """
        softmax, sigmoid = torch.zeros(1, device=x.device), torch.zeros(1, device=x.device)
        for member in self.members:
            logits = member(x).float()
            softmax = softmax + torch.softmax(logits[:, : self.num_classes], dim=1)
            sigmoid = sigmoid + torch.sigmoid(logits[:, self.num_classes :])
        n = len(self.members)
        return torch.cat([torch.log((softmax / n).clamp_min(1e-8)), torch.logit(sigmoid / n, eps=1e-7)], dim=1)
