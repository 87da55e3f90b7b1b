# SPDX-License-Identifier: Apache-2.0
"""Residual Convolution Block Attention Module: channel, then spatial attention, each in parallel with a residual block."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from monai.networks.layers.factories import Conv
from torch import nn


class ChannelAttention(nn.Module):
    """Channel attention of CBAM (Woo et al. 2018, doi:10.1007/978-3-030-01234-2_1): an MLP shared by mean and maximum.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        reduction: ratio of input channels to channels of the hidden layer, which has at least eight.
    """

    def __init__(self, spatial_dims: int, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.axes = list(range(2, 2 + spatial_dims))
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        gate = torch.sigmoid(self.mlp(x.mean(dim=self.axes)) + self.mlp(x.amax(dim=self.axes)))
        for _ in self.axes:
            gate = gate.unsqueeze(-1)
        return x * gate


class SpatialAttention(nn.Module):
    """Spatial attention of CBAM: a sigmoid gate for each position, by a convolution on mean and maximum over the channels.

    Args:
        spatial_dims: 2 or 3.
        kernel_size: kernel of the convolution, an odd number.
    """

    def __init__(self, spatial_dims: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels=2, out_channels=1, kernel_size=kernel_size, padding=kernel_size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *size) to the same shape."""
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(summary))


class ResidualConvBlockAttention(nn.Module):
    """RCBAM (Saeed et al. 2024, section "Residual Convolution Block Attention Module", Fig. 4)::

        x --+-- channel attention --cat-- 1x1 --+-- spatial attention --cat-- 1x1 --> out
            |-- residual block ------|          |-- residual block ------|

    The 1x1 convolutions that restore the width are not stated in the paper.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        reduction: ratio of input channels to channels of the channel attention's hidden layer.
        kernel_size: kernel of the spatial attention.
        residual_subunits: convolutions in each residual block.
        act: activation after each convolution.
        norm: normalisation after each convolution.
        dropout: dropout probability in the residual blocks.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        reduction: int = 4,
        kernel_size: int = 7,
        residual_subunits: int = 1,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        shared: dict[str, Any] = {"spatial_dims": spatial_dims, "out_channels": channels, "act": act, "norm": norm, "bias": False}
        unit = partial(ResidualUnit, in_channels=channels, subunits=residual_subunits, dropout=dropout, **shared)
        merge = partial(Convolution, in_channels=2 * channels, kernel_size=1, **shared)
        self.channel_attention = ChannelAttention(spatial_dims=spatial_dims, channels=channels, reduction=reduction)
        self.spatial_attention = SpatialAttention(spatial_dims=spatial_dims, kernel_size=kernel_size)
        self.channel_residual, self.spatial_residual = unit(), unit()
        self.channel_merge, self.spatial_merge = merge(), merge()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        x = self.channel_merge(torch.cat([self.channel_attention(x), self.channel_residual(x)], dim=1))
        return self.spatial_merge(torch.cat([self.spatial_attention(x), self.spatial_residual(x)], dim=1))
