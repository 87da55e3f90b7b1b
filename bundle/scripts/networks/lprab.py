# SPDX-License-Identifier: Apache-2.0
"""Local Position Residual Attention Block: attention over the coordinates of each axis, on a residual path."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from torch import nn


class AxialPositionGate(nn.Module):
    """Coordinate attention (Hou et al. 2021, doi:10.1109/CVPR46437.2021.01350) in any number of dimensions.

    The map is averaged onto each axis in turn; a hidden layer shared by all axes and one layer per axis map the profile to a
    sigmoid gate for every coordinate of that axis.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        reduction: ratio of input channels to channels of the hidden layer, which has at least eight.
        norm: normalisation of the hidden layer.
    """

    def __init__(self, spatial_dims: int, channels: int, reduction: int = 4, norm: str | tuple = "batch") -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        # Dimensions of all other axes with the channels last, built here because TorchScript has no filtered comprehension.
        self.other_axes = [[1 + a for a in range(spatial_dims) if a != axis] for axis in range(spatial_dims)]
        self.shared = Convolution(
            spatial_dims=1, in_channels=channels, out_channels=hidden, kernel_size=1, act="relu", norm=norm, bias=False
        )
        self.axis_gates = nn.ModuleList(nn.Conv1d(hidden, channels, kernel_size=1) for _ in range(spatial_dims))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        # Means and products over channels-last memory are several times as fast with the channels last.
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

    The identity path and the residual path are stated in the paper; the encoding of the position is not, and coordinate attention
    is our choice.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        reduction: ratio of input channels to channels of the gate's hidden layer.
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
        self.position = AxialPositionGate(spatial_dims=spatial_dims, channels=channels, reduction=reduction, norm=norm)
        self.residual = Convolution(
            spatial_dims=spatial_dims,
            in_channels=channels,
            out_channels=channels,
            kernel_size=3,
            act=act,
            norm=norm,
            dropout=dropout,
            bias=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        return x + self.residual(self.position(x))
