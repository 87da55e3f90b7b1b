# SPDX-License-Identifier: Apache-2.0
"""DeepLabv3+: a residual network kept fine by atrous convolutions, a pyramid of rates, and a short decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Pool
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import nn
from torch.nn import functional

from ..projection import INTERPOLATION
from .atrous import AtrousPyramid, spatial_convolution
from .common import check_arguments, start_from_he
from .padding import crop_to, pad_to_multiple

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
    """One stage of a residual network, on MONAI's ResNet blocks.

    MONAI's ``ResNet`` as a whole knows no rates, and gives its stages batch normalisation whatever ``norm`` says.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        planes: channels inside a block; a bottleneck gives four times as many.
        blocks: number of blocks.
        block: ``basic`` or ``bottleneck``.
        stride: stride of the first block.
        rate: dilation of the 3x3 convolutions; what comes in the place of a stride.
        act: activation.
        norm: normalisation after each convolution.

    Returns:
        A module that maps (B, in_channels, *size) to (B, planes * expansion, *size / stride).
    """
    kind = BLOCKS[block]
    width = planes * kind.expansion
    modules: list[nn.Module] = []
    for index in range(blocks):
        fewer, step = (in_channels, stride) if index == 0 else (width, 1)
        shortcut: nn.Module | None = None
        if step != 1 or fewer != width:
            shortcut = Convolution(
                spatial_dims, fewer, width, strides=step, kernel_size=1, act=None, norm=norm, bias=False
            )
        modules.append(kind(fewer, planes, spatial_dims, step, shortcut, act=act, norm=norm))
    for module in nn.ModuleList(modules).modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.kernel_size[0] == 3:
            module.dilation = module.padding = (rate,) * spatial_dims
    return nn.Sequential(*modules)


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ of Chen et al. 2018 (doi:10.1007/978-3-030-01234-2_49) on a residual network (He 2016, doi:10.1109/CVPR.2016.90)::

        image -- stem /4 -- 1 /4 --+-- 2 /8 -- 3 /16 -- 4 /16, atrous -- ASPP -- x4 --+-- 3x3 -- 3x3 -- 1x1 -- x4 --> logits
                                   |-- 1x1 -------------------------------------------|

    The defaults are ResNet-50 at output stride 16 with plain convolutions; ``blocks=(3, 4, 23, 3)`` is ResNet-101, and
    ``separable`` makes the convolutions of ASPP and decoder separable, as the paper does on Xception. The last stage has one rate
    throughout (no multi-grid), and weights are drawn anew (He): there are none of ImageNet. All widths follow ``features``, so
    that the network is scaled by them alone.

    Any input size is taken: the image is padded inside to a multiple of 16 and the output cropped back.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of the stem and inside the blocks of the four stages; ResNet's are the default.
        blocks: residual blocks of each stage.
        block: ``bottleneck``, whose output has four times the channels, or ``basic``.
        output_stride: size of the image divided by the size of the last stage: 16 or 8.
        rates: dilations of ASPP at output stride 16; at 8 they are doubled, as in the paper.
        aspp_channels: channels of ASPP and decoder; None takes half of ``features[-1]``, the paper's 256.
        low_level_channels: channels of the path from stage 1 to the decoder; None takes 3/16 of ``aspp_channels``, the paper's 48.
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
        super().__init__()
        check_arguments("DeepLabV3Plus", spatial_dims, in_channels, out_channels, features, dropout)
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"DeepLabV3Plus: blocks={tuple(blocks)}; give four numbers of 1 or more.")
        if block not in BLOCKS:
            raise ValueError(f"DeepLabV3Plus: block={block!r}; give 'bottleneck' or 'basic'.")
        if output_stride not in (8, 16):
            raise ValueError(f"DeepLabV3Plus: output_stride={output_stride}; give 16 or 8.")
        if not rates or min(rates) < 1:
            raise ValueError(f"DeepLabV3Plus: rates={tuple(rates)}; give one or more integers >= 1.")
        width = features[-1] // 2 if aspp_channels is None else aspp_channels
        # The mean's branch is normalised over its channels, and two of them would always come out as plus and minus one.
        if width < 4:
            raise ValueError(f"DeepLabV3Plus: aspp_channels={width}; give 4 or more, or a features[-1] of 8 or more.")
        low = max(3 * width // 16, 1) if low_level_channels is None else low_level_channels
        if low < 1:
            raise ValueError(f"DeepLabV3Plus: low_level_channels={low}; give 1 or more.")
        self.stride = 16
        self.mode = INTERPOLATION[spatial_dims]
        fine = output_stride == 8
        expansion = BLOCKS[block].expansion

        self.stem = nn.Sequential(
            Convolution(
                spatial_dims, in_channels, features[0], strides=2, kernel_size=7, act=act, norm=norm, bias=False
            ),
            Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=2, padding=1),
        )
        inputs = [features[0], *(expansion * f for f in features[1:4])]
        strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if fine else ((1, 2, 2, 1), (1, 1, 1, 2))
        stages = [
            residual_stage(
                spatial_dims, inputs[i], features[i + 1], blocks[i], block, strides[i], dilations[i], act, norm
            )
            for i in range(4)
        ]
        self.first_stage, self.later_stages = stages[0], nn.Sequential(*stages[1:])
        self.aspp = AtrousPyramid(
            spatial_dims,
            expansion * features[-1],
            width,
            rates=[2 * r for r in rates] if fine else rates,
            separable=separable,
            act=act,
            norm=norm,
            dropout=dropout,
        )
        self.low_level = Convolution(
            spatial_dims, expansion * features[1], low, kernel_size=1, act=act, norm=norm, bias=False
        )
        self.decoder = nn.Sequential(
            spatial_convolution(spatial_dims, width + low, width, 1, separable, act, norm, dropout),
            spatial_convolution(spatial_dims, width, width, 1, separable, act, norm, dropout),
        )
        self.head = Convolution(spatial_dims, width, out_channels, kernel_size=1, conv_only=True)
        start_from_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is (H, W) or (H, W, D)."""
        padded = pad_to_multiple(x, self.stride, 2)
        early = self.first_stage(self.stem(padded))
        context = self.aspp(self.later_stages(early))
        context = functional.interpolate(context, size=early.shape[2:], mode=self.mode, align_corners=False)
        logits = self.head(self.decoder(torch.cat([context, self.low_level(early)], dim=1)))
        logits = functional.interpolate(logits, size=padded.shape[2:], mode=self.mode, align_corners=False)
        return crop_to(logits, x.shape[2:])
