# SPDX-License-Identifier: Apache-2.0
"""Local Position Residual Attention Block: where along each axis the object lies, around a residual block."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from torch import nn


class AxialPositionGate(nn.Module):
    """Coordinate attention (Hou et al. 2021, doi:10.1109/CVPR46437.2021.01350) in any number of dimensions.

    The map is averaged onto each axis in turn; one shared hidden layer and one layer per axis turn the profile into a gate for
    every coordinate of that axis.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        reduction: ratio of the shared hidden layer.
        norm: normalisation of the hidden layer.
    """

    def __init__(self, spatial_dims: int, channels: int, reduction: int = 4, norm: str | tuple = "batch") -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        # For each axis the dimensions of all other axes, channels last; TorchScript compiles no filtered comprehension in forward.
        self.other_axes = [[1 + a for a in range(spatial_dims) if a != axis] for axis in range(spatial_dims)]
        self.shared = Convolution(1, channels, hidden, kernel_size=1, act="relu", norm=norm, bias=False)
        self.axis_gates = nn.ModuleList(nn.Conv1d(hidden, channels, kernel_size=1) for _ in range(spatial_dims))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate (B, channels, *size) along every axis; the shape stays."""
        # Means and products run with the channels last: over a channels-last map several times as fast as channels first.
        last = x.movedim(1, -1)
        out = last
        for axis, to_gate in enumerate(self.axis_gates):
            others = self.other_axes[axis]
            profile = last.mean(dim=others).transpose(1, 2)
            gate = torch.sigmoid(to_gate(self.shared(profile))).transpose(1, 2).contiguous()
            for other in others:
                gate = gate.unsqueeze(other)
            out = out * gate
        return out.movedim(-1, 1)


class LocalPositionResidualAttention(nn.Module):
    """LPRAB (Saeed et al. 2024, section "Local Position Residual Attention Block", Fig. 6)::

        x --+-- position gate -- 3x3 conv, BN, ReLU --(+)--> out
            |------------------------------------------|

    The paper names an identity path and a residual path that is added to it; how position is captured is not stated, and
    coordinate attention is our choice.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        reduction: ratio of the hidden layer of the gate.
        act: activation on the residual path.
        norm: normalisation after each convolution.
        dropout: dropout probability on the residual path.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        reduction: int = 4,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.position = AxialPositionGate(spatial_dims, channels, reduction=reduction, norm=norm)
        self.residual = Convolution(
            spatial_dims, channels, channels, kernel_size=3, act=act, norm=norm, dropout=dropout, bias=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        return x + self.residual(self.position(x))
