# SPDX-License-Identifier: Apache-2.0
"""Depthwise separable convolution: one filter per channel, then a 1x1 convolution across channels."""

from __future__ import annotations

from functools import partial

import torch
from monai.networks.blocks import Convolution
from torch import nn


class SeparableConvolution(nn.Module):
    """Depthwise, then pointwise convolution: the bottleneck encoder of Saeed et al. 2024, Fig. 8::

        x -- 3x3 depthwise conv, stride, BN -- 1x1 conv, BN, ReLU --> out

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
        conv = partial(Convolution, spatial_dims=spatial_dims, in_channels=in_channels, norm=norm, bias=False)
        self.depthwise = conv(out_channels=in_channels, strides=stride, kernel_size=3, groups=in_channels, act=None)
        self.pointwise = conv(out_channels=out_channels, kernel_size=1, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *size / stride)."""
        return self.pointwise(self.depthwise(x))
