# SPDX-License-Identifier: Apache-2.0
"""U-Net with a deep residual encoder and a light decoder: nnU-Net's ResEnc presets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from monai.networks.layers.utils import get_act_layer
from torch import nn

from .base import BaselineNetwork

PRESET_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first stages in nnU-Net's presets M, L and XL; all deeper stages have six."""


class ResidualBlock(nn.Module):
    """Basic residual block, form D of He et al. 2019 (doi:10.1109/CVPR.2019.00065)::

        x --+-- 3x3 conv, stride -- norm -- act -- 3x3 conv -- norm --(+)-- act --> out
            |-- average pooling, stride -- 1x1 conv -- norm ----------|

    The shortcut has the pooling for a stride above one, the 1x1 convolution for a change of width. With pooling every position
    enters the shortcut; a 1x1 convolution with a stride of two would skip three of four.

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
        conv = partial(Convolution, spatial_dims=spatial_dims, out_channels=out_channels, norm=norm, bias=norm is None)
        self.first = conv(in_channels=in_channels, strides=stride, kernel_size=3, act=act, dropout=dropout)
        self.second = conv(in_channels=out_channels, kernel_size=3, act=None)
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(Pool[Pool.AVG, spatial_dims](kernel_size=stride, stride=stride))
        if in_channels != out_channels:
            shortcut.append(conv(in_channels=in_channels, kernel_size=1, act=None))
        self.shortcut: nn.Module = nn.Sequential(*shortcut) if shortcut else nn.Identity()
        self.act = get_act_layer(act)

    def zero_initialize(self) -> None:
        """Set the scale of the last normalisation, if it has one, to zero: the block is initialised to its shortcut."""
        for module in self.second.modules():
            if not isinstance(module, (nn.Conv2d, nn.Conv3d)) and getattr(module, "weight", None) is not None:
                nn.init.zeros_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *size / stride)."""
        return self.act(self.second(self.first(x)) + self.shortcut(x))


class ResidualEncoderUNet(BaselineNetwork):
    """Residual encoder U-Net of nnU-Net (Isensee et al. 2024, doi:10.1007/978-3-031-72114-4_47)::

        image -- stem -- stage 0 ---------------------------------- conv -- 1x1 --> logits
                           |-- stage 1 ------------------ conv -- up --|
                                 |-- stage 2 -- ... -- up --|

    Each stage is a sequence of residual blocks, the first with stride two; the decoder has a transposed convolution and a 3x3
    convolution per stage. Only the network is nnU-Net's, not its planning, augmentation or schedule: kernels and strides are
    isotropic, there is no deep supervision, and convolutions have no bias, which the normalisation after each would cancel.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes of the softmax, background included.
        features: channels of the stages, finest first; there are as many stages as widths. nnU-Net starts at 32 and doubles up to
            512 in 2D, 320 in 3D.
        blocks: residual blocks of each stage; None: nnU-Net's 1, 3, 4 and then 6.
        act: activation.
        norm: normalisation after each convolution.
        dropout: dropout probability after the first convolution of each block and in the decoder.
        zero_residual: whether blocks are initialised to their shortcut, as in nnU-Net.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    num_stages, more_stages = 2, True

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
        num_stages = len(features)
        stride = 2 ** max(num_stages - 1, 0)
        super().__init__(spatial_dims, in_channels, out_channels, features, dropout, stride=stride, min_multiples=2)
        depths = (PRESET_BLOCKS + (6,) * num_stages)[:num_stages] if blocks is None else tuple(blocks)
        one_each = len(depths) == num_stages and min(depths) >= 1
        self._require(one_each, "blocks", depths, f"be {num_stages} numbers of 1 or more, one for each of the features")
        bias = norm is None
        conv = partial(Convolution, spatial_dims=spatial_dims, kernel_size=3, act=act, norm=norm, dropout=dropout, bias=bias)
        self.stem = conv(in_channels=in_channels, out_channels=features[0])
        stages: list[nn.Module] = []
        for level, (width, depth) in enumerate(zip(features, depths)):
            in_width, stride = (features[level - 1], 2) if level else (width, 1)
            first = ResidualBlock(spatial_dims, in_width, width, stride=stride, act=act, norm=norm, dropout=dropout)
            rest = (ResidualBlock(spatial_dims, width, width, act=act, norm=norm, dropout=dropout) for _ in range(depth - 1))
            stages.append(nn.Sequential(first, *rest))
        self.stages = nn.ModuleList(stages)
        upwards = list(zip(features[:0:-1], features[-2::-1]))
        self.upsamplings = nn.ModuleList(
            Conv[Conv.CONVTRANS, spatial_dims](in_channels=coarse, out_channels=fine, kernel_size=2, stride=2, bias=bias)
            for coarse, fine in upwards
        )
        self.merges = nn.ModuleList(conv(in_channels=2 * fine, out_channels=fine) for _, fine in upwards)
        self.head = Conv[Conv.CONV, spatial_dims](in_channels=features[0], out_channels=out_channels, kernel_size=1)
        self._initialize_he(negative_slope=0.01)
        if zero_residual:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.zero_initialize()

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is a multiple of the stride."""
        x = self.stem(x)
        levels: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        for index, (upsampling, merge) in enumerate(zip(self.upsamplings, self.merges)):
            x = merge(torch.cat([upsampling(x), levels[-2 - index]], dim=1))
        return self.head(x)
