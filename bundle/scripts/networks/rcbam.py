# SPDX-License-Identifier: Apache-2.0
"""Residual Convolution Block Attention Module: channel then spatial attention, each beside a residual block."""

from __future__ import annotations

from functools import partial

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from monai.networks.layers.factories import Conv
from torch import nn


class ChannelAttention(nn.Module):
    """Channel attention of CBAM (Woo et al. 2018, doi:10.1007/978-3-030-01234-2_1): one shared MLP on mean and maximum.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        reduction: ratio of the hidden layer.
    """

    def __init__(self, spatial_dims: int, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.axes = list(range(2, 2 + spatial_dims))
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate the channels of (B, channels, *size); the shape stays."""
        gate = torch.sigmoid(self.mlp(x.mean(dim=self.axes)) + self.mlp(x.amax(dim=self.axes)))
        for _ in self.axes:
            gate = gate.unsqueeze(-1)
        return x * gate


class SpatialAttention(nn.Module):
    """Spatial attention of CBAM: a convolution on the channel-wise mean and maximum gives one weight a position.

    Args:
        spatial_dims: 2 or 3.
        kernel_size: size of that convolution.
    """

    def __init__(self, spatial_dims: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](2, 1, kernel_size=kernel_size, padding=kernel_size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate the positions of (B, channels, *size); the shape stays."""
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
        reduction: ratio of the hidden layer of the channel attention.
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
        self.channel_attention = ChannelAttention(spatial_dims, channels, reduction=reduction)
        self.spatial_attention = SpatialAttention(spatial_dims, kernel_size=kernel_size)
        unit = partial(
            ResidualUnit,
            spatial_dims,
            channels,
            channels,
            subunits=residual_subunits,
            act=act,
            norm=norm,
            dropout=dropout,
            bias=False,
        )
        self.channel_residual, self.spatial_residual = unit(), unit()
        self.channel_merge = Convolution(
            spatial_dims, 2 * channels, channels, kernel_size=1, act=act, norm=norm, bias=False
        )
        self.spatial_merge = Convolution(
            spatial_dims, 2 * channels, channels, kernel_size=1, act=act, norm=norm, bias=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        x = self.channel_merge(torch.cat([self.channel_attention(x), self.channel_residual(x)], dim=1))
        return self.spatial_merge(torch.cat([self.spatial_attention(x), self.spatial_residual(x)], dim=1))
