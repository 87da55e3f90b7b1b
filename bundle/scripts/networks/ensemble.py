# SPDX-License-Identifier: Apache-2.0
"""Several weights of one network, whose probabilities are averaged."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MeanEnsemble(nn.Module):
    """Average the probabilities of copies of a network, such as those of the folds of a cross-validation.

    Args:
        network: network that the members are copies of.
        members: number of copies; their weights are loaded afterwards, member by member.
        classes: outputs that are classes; each one behind them is the logit of a question of its own, such as vertebra or not.

    Raises:
        ValueError: when there is no member.
    """

    def __init__(self, network: nn.Module, members: int, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes
        if members < 1:
            raise ValueError(f"MeanEnsemble: members={members}; give at least one checkpoint.")
        self.members = nn.ModuleList(copy.deepcopy(network) for _ in range(members))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *size) to log-probabilities (B, classes, *size): softmax and argmax of them are those of the mean.

        Behind them is the logit of the mean probability of each further output.
        """
        total, more = torch.zeros(1, device=x.device), torch.zeros(1, device=x.device)
        for member in self.members:
            logits = member(x).float()
            total = total + torch.softmax(logits[:, : self.classes], dim=1)
            more = more + torch.sigmoid(logits[:, self.classes :])
        n = len(self.members)
        return torch.cat([torch.log((total / n).clamp_min(1e-8)), torch.logit(more / n, eps=1e-7)], dim=1)
