# SPDX-License-Identifier: Apache-2.0
"""U-Net with a deep residual encoder and a light decoder, as nnU-Net's ResEnc presets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from monai.networks.layers.utils import get_act_layer
from torch import nn

from .common import check_arguments, start_from_he
from .padding import crop_to, pad_to_multiple

PRESET = (1, 3, 4, 6)
"""Residual blocks of the first stages in nnU-Net's presets M, L and XL; all deeper stages have six."""


class ResidualBlock(nn.Module):
    """Basic residual block in the form D of He et al. 2019 (doi:10.1109/CVPR.2019.00065)::

        x --+-- 3x3 conv, stride -- norm -- act -- 3x3 conv -- norm --(+)-- act --> out
            |-- average pooling, stride -- 1x1 conv -- norm ----------|

    The pooling is there when the stride is above one, the 1x1 convolution when the width changes. Pooling lets the shortcut see
    every position, where a 1x1 convolution with the stride would skip three of four.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the pooling.
        act: activation.
        norm: normalisation after each convolution.
        dropout: dropout probability after the first convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        act: str | tuple = "relu",
        norm: str | tuple | None = "instance",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        bias = norm is None
        self.first = Convolution(
            spatial_dims, in_channels, out_channels, stride, 3, act=act, norm=norm, dropout=dropout, bias=bias
        )
        self.second = Convolution(
            spatial_dims, out_channels, out_channels, kernel_size=3, act=None, norm=norm, bias=bias
        )
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(Pool[Pool.AVG, spatial_dims](kernel_size=stride, stride=stride))
        if in_channels != out_channels:
            shortcut.append(
                Convolution(spatial_dims, in_channels, out_channels, kernel_size=1, act=None, norm=norm, bias=bias)
            )
        self.shortcut: nn.Module = nn.Sequential(*shortcut) if shortcut else nn.Identity()
        self.act = get_act_layer(act)

    def start_as_shortcut(self) -> None:
        """Zero the last normalisation's scale, if it has one: the block adds nothing until it has learned to."""
        for module in self.second.modules():
            if not isinstance(module, (nn.Conv2d, nn.Conv3d)) and getattr(module, "weight", None) is not None:
                nn.init.zeros_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *size / stride)."""
        return self.act(self.second(self.first(x)) + self.shortcut(x))


class ResidualEncoderUNet(nn.Module):
    """The residual encoder U-Net of nnU-Net (Isensee et al. 2024, doi:10.1007/978-3-031-72114-4_47)::

        image -- stem -- stage 0 ---------------------------------- conv -- 1x1 --> logits
                           |-- stage 1 ------------------ conv -- up --|
                                 |-- stage 2 -- ... -- up --|

    Each stage is a row of residual blocks, the first with stride two; going back up, a transposed convolution and one 3x3
    convolution. Only the network is nnU-Net's, not its planning, its augmentation or its schedule: kernels and strides are the
    same in every direction, there is no deep supervision, and convolutions have no bias, which nnU-Net gives them and the
    normalisation behind each takes out again.

    Any input size is taken: the image is padded inside to a multiple of the stride and the output cropped back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of the stages, from full resolution downwards; there are as many stages as widths. nnU-Net starts at 32
            and doubles up to 512 in 2D, 320 in 3D.
        blocks: residual blocks of each stage; None takes nnU-Net's 1, 3, 4 and then 6.
        act: activation.
        norm: normalisation after each convolution.
        dropout: dropout probability after the first convolution of each block and in the decoder.
        zero_residual: whether blocks start as their shortcut alone, as in nnU-Net.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 64, 128, 256, 512, 512),
        blocks: Sequence[int] | None = None,
        act: str | tuple = ("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        norm: str | tuple | None = ("instance", {"affine": True}),
        dropout: float = 0.0,
        zero_residual: bool = True,
    ) -> None:
        super().__init__()
        check_arguments("ResidualEncoderUNet", spatial_dims, in_channels, out_channels, features, dropout, stages=None)
        depths = [*PRESET, *[6] * len(features)][: len(features)] if blocks is None else list(blocks)
        if len(depths) != len(features) or min(depths) < 1:
            raise ValueError(
                f"ResidualEncoderUNet: blocks={tuple(depths)}; give one number of 1 or more for each of the "
                f"{len(features)} features."
            )
        self.stride = 2 ** (len(features) - 1)
        bias = norm is None
        self.stem = Convolution(
            spatial_dims, in_channels, features[0], kernel_size=3, act=act, norm=norm, dropout=dropout, bias=bias
        )
        stages: list[nn.Module] = []
        for level, (width, depth) in enumerate(zip(features, depths)):
            fewer, stride = (features[level - 1], 2) if level else (width, 1)
            first = ResidualBlock(spatial_dims, fewer, width, stride, act, norm, dropout)
            rest = (ResidualBlock(spatial_dims, width, width, 1, act, norm, dropout) for _ in range(depth - 1))
            stages.append(nn.Sequential(first, *rest))
        self.stages = nn.ModuleList(stages)
        upwards = list(zip(features[:0:-1], features[-2::-1]))
        self.upsamplings = nn.ModuleList(
            Conv[Conv.CONVTRANS, spatial_dims](more, fewer, kernel_size=2, stride=2, bias=bias)
            for more, fewer in upwards
        )
        self.merges = nn.ModuleList(
            Convolution(spatial_dims, 2 * fewer, fewer, kernel_size=3, act=act, norm=norm, dropout=dropout, bias=bias)
            for _, fewer in upwards
        )
        self.head = Conv[Conv.CONV, spatial_dims](features[0], out_channels, kernel_size=1)
        start_from_he(self, negative_slope=0.01)
        if zero_residual:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.start_as_shortcut()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is (H, W) or (H, W, D)."""
        size = x.shape[2:]
        x = self.stem(pad_to_multiple(x, self.stride, 2))
        levels: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        for index, (upsampling, merge) in enumerate(zip(self.upsamplings, self.merges)):
            x = merge(torch.cat([upsampling(x), levels[-2 - index]], dim=1))
        return crop_to(self.head(x), size)
