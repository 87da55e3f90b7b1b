# SPDX-License-Identifier: Apache-2.0
"""DeepLabv3+: a residual encoder with atrous convolutions, atrous spatial pyramid pooling and a short decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Pool
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import nn
from torch.nn import functional

from ..projection import INTERPOLATION
from .atrous import AtrousPyramid, spatial_convolution
from .base import BaselineNetwork

BLOCKS = {"basic": ResNetBlock, "bottleneck": ResNetBottleneck}


def residual_stage(
    spatial_dims: int,
    in_channels: int,
    planes: int,
    blocks: int,
    block: str,
    stride: int,
    rate: int,
    act: str | tuple,
    norm: str | tuple,
) -> nn.Sequential:
    """Stage of a residual network, of MONAI's ResNet blocks.

    MONAI's ``ResNet`` has no dilation, and its stages have batch normalisation for any ``norm``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        planes: channels inside a block; the output of a bottleneck has four times as many.
        blocks: number of blocks.
        block: ``basic`` or ``bottleneck``.
        stride: stride of the first block.
        rate: dilation of the 3x3 convolutions, in place of a stride.
        act: activation.
        norm: normalisation after each convolution.

    Returns:
        A module that maps (B, in_channels, *size) to (B, planes * expansion, *size / stride).
    """
    block_class = BLOCKS[block]
    width = planes * block_class.expansion
    modules: list[nn.Module] = []
    for index in range(blocks):
        in_width, step = (in_channels, stride) if index == 0 else (width, 1)
        shortcut: nn.Module | None = None
        if step != 1 or in_width != width:
            shortcut = Convolution(
                spatial_dims=spatial_dims,
                in_channels=in_width,
                out_channels=width,
                strides=step,
                kernel_size=1,
                act=None,
                norm=norm,
                bias=False,
            )
        modules.append(block_class(in_width, planes, spatial_dims, step, shortcut, act=act, norm=norm))
    for module in nn.ModuleList(modules).modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.kernel_size[0] == 3:
            module.dilation = module.padding = (rate,) * spatial_dims
    return nn.Sequential(*modules)


class DeepLabV3Plus(BaselineNetwork):
    """DeepLabv3+ of Chen et al. 2018 (doi:10.1007/978-3-030-01234-2_49) on a residual network (He 2016, doi:10.1109/CVPR.2016.90)::

        image -- stem /4 -- 1 /4 --+-- 2 /8 -- 3 /16 -- 4 /16, atrous -- ASPP -- x4 --+-- 3x3 -- 3x3 -- 1x1 -- x4 --> logits
                                   |-- 1x1 -------------------------------------------|

    The defaults are ResNet-50 at output stride 16 with plain convolutions; ``blocks=(3, 4, 23, 3)`` is ResNet-101, and
    ``separable`` convolutions in ASPP and decoder are those of the paper on Xception. The last stage has one rate throughout (no
    multi-grid), and weights have He initialisation: none are pretrained on ImageNet. All widths are multiples of ``features``,
    which alone scales the network.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes of the softmax, background included.
        features: channels of the stem and inside the blocks of the four stages; the default is ResNet.
        blocks: residual blocks of each stage.
        block: ``bottleneck``, whose output has four times the channels, or ``basic``.
        output_stride: size of the image divided by the size of the last stage: 16 or 8.
        rates: dilations of ASPP at output stride 16; at 8 they are doubled, as in the paper.
        aspp_channels: channels of ASPP and decoder; None: half of ``features[-1]``, the paper's 256.
        low_level_channels: channels of the path from stage 1 to the decoder; None: 3/16 of ``aspp_channels``, the paper's 48.
        separable: whether the 3x3 convolutions of ASPP and decoder are separable.
        act: activation.
        norm: normalisation.
        dropout: dropout probability after ASPP and after both convolutions of the decoder.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (64, 64, 128, 256, 512),
        blocks: Sequence[int] = (3, 4, 6, 3),
        block: str = "bottleneck",
        output_stride: int = 16,
        rates: Sequence[int] = (6, 12, 18),
        aspp_channels: int | None = None,
        low_level_channels: int | None = None,
        separable: bool = False,
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, features, dropout, stride=16, min_multiples=2)
        four = len(blocks) == 4 and min(blocks) >= 1
        self._require(four, "blocks", tuple(blocks), "be four numbers of 1 or more")
        self._require(block in BLOCKS, "block", block, f"be {' or '.join(map(repr, BLOCKS))}")
        self._require(output_stride in (8, 16), "output_stride", output_stride, "be 16 or 8")
        self._require(min(rates, default=0) >= 1, "rates", tuple(rates), "be one or more integers >= 1")
        width = features[-1] // 2 if aspp_channels is None else aspp_channels
        # The normalisation of the mean over two channels would always be plus and minus one.
        self._require(width >= 4, "aspp_channels", width, "be 4 or more (half of features[-1] by default)")
        low_width = max(3 * width // 16, 1) if low_level_channels is None else low_level_channels
        self._require(low_width >= 1, "low_level_channels", low_width, "be 1 or more")
        self.mode = INTERPOLATION[spatial_dims]
        atrous = output_stride == 8
        expansion = BLOCKS[block].expansion

        conv = partial(Convolution, spatial_dims=spatial_dims, act=act, norm=norm, bias=False)
        self.stem = nn.Sequential(
            conv(in_channels=in_channels, out_channels=features[0], strides=2, kernel_size=7),
            Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=2, padding=1),
        )
        inputs = [features[0], *(expansion * f for f in features[1:4])]
        strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if atrous else ((1, 2, 2, 1), (1, 1, 1, 2))
        stages = [
            residual_stage(
                spatial_dims,
                in_channels=inputs[i],
                planes=features[i + 1],
                blocks=blocks[i],
                block=block,
                stride=strides[i],
                rate=dilations[i],
                act=act,
                norm=norm,
            )
            for i in range(4)
        ]
        self.first_stage, self.later_stages = stages[0], nn.Sequential(*stages[1:])
        self.aspp = AtrousPyramid(
            spatial_dims,
            in_channels=expansion * features[-1],
            out_channels=width,
            rates=[2 * r for r in rates] if atrous else rates,
            separable=separable,
            act=act,
            norm=norm,
            dropout=dropout,
        )
        self.low_level = conv(in_channels=expansion * features[1], out_channels=low_width, kernel_size=1)
        self.decoder = nn.Sequential(
            *(
                spatial_convolution(spatial_dims, in_width, width, 1, separable, act=act, norm=norm, dropout=dropout)
                for in_width in (width + low_width, width)
            )
        )
        self.head = conv(in_channels=width, out_channels=out_channels, kernel_size=1, bias=True, conv_only=True)
        self._initialize_he()

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is a multiple of the stride."""
        low = self.first_stage(self.stem(x))
        high = self.aspp(self.later_stages(low))
        high = functional.interpolate(high, size=low.shape[2:], mode=self.mode, align_corners=False)
        logits = self.head(self.decoder(torch.cat([high, self.low_level(low)], dim=1)))
        return functional.interpolate(logits, size=x.shape[2:], mode=self.mode, align_corners=False)
