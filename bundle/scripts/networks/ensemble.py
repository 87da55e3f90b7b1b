# SPDX-License-Identifier: Apache-2.0
"""Several weights of one network, whose probabilities are averaged."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MeanEnsemble(nn.Module):
    """Average the class probabilities of copies of a network, such as those of the folds of a cross-validation.

    Args:
        network: network that the members are copies of.
        members: number of copies; their weights are loaded afterwards, member by member.

    Raises:
        ValueError: when there is no member.
    """

    def __init__(self, network: nn.Module, members: int) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"MeanEnsemble: members={members}; give at least one checkpoint.")
        self.members = nn.ModuleList(copy.deepcopy(network) for _ in range(members))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *size) to log-probabilities (B, classes, *size): softmax and argmax of them are those of the mean."""
        total = torch.zeros(1, device=x.device)
        for member in self.members:
            total = total + torch.softmax(member(x).float(), dim=1)
        return torch.log((total / len(self.members)).clamp_min(1e-8))
