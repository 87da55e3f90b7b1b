# SPDX-License-Identifier: Apache-2.0
"""Separable convolution: each channel by itself, then across channels."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from torch import nn


class SeparableConvolution(nn.Module):
    """Depthwise, then pointwise convolution, each with normalisation: the bottleneck encoder of Saeed et al. 2024, Fig. 8.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the depthwise convolution.
        act: activation after the pointwise convolution (not stated in the paper).
        norm: normalisation after each convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        self.depthwise = Convolution(
            spatial_dims,
            in_channels,
            in_channels,
            strides=stride,
            kernel_size=3,
            groups=in_channels,
            act=None,
            norm=norm,
            bias=False,
        )
        self.pointwise = Convolution(
            spatial_dims, in_channels, out_channels, kernel_size=1, act=act, norm=norm, bias=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *size / stride)."""
        return self.pointwise(self.depthwise(x))
