# SPDX-License-Identifier: Apache-2.0
"""FCN-8s: a classification network made convolutional, its coarse scores refined by those of two earlier stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from .common import VGG16_CONVOLUTIONS, check_arguments, convolution_stage, start_from_he
from .padding import crop_to, pad_to_multiple


def bilinear_upsampling(spatial_dims: int, channels: int, factor: int) -> nn.Module:
    """A transposed convolution that starts as linear interpolation by ``factor`` and can be trained to something else.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output; each starts by itself.
        factor: stride, an even number.

    Returns:
        A module that maps (B, channels, *size) to (B, channels, *factor * size).
    """
    upsampling = Conv[Conv.CONVTRANS, spatial_dims](
        channels, channels, kernel_size=2 * factor, stride=factor, padding=factor // 2, bias=False
    )
    distance = torch.arange(2 * factor, dtype=torch.float32) - (factor - 0.5)
    line = 1.0 - distance.abs() / factor
    kernel = line
    for _ in range(spatial_dims - 1):
        kernel = kernel.unsqueeze(-1) * line
    with torch.no_grad():
        upsampling.weight.zero_()
        for channel in range(channels):
            upsampling.weight[channel, channel] = kernel
    return upsampling


class FCN8s(nn.Module):
    """FCN-8s of Shelhamer, Long, Darrell 2017 (doi:10.1109/TPAMI.2016.2572683; Long 2015, doi:10.1109/CVPR.2015.7298965)::

        image -- stage 1 -- 2 -- 3 --+-- stage 4 --+-- stage 5 -- fc6 7x7 -- fc7 1x1 -- score
                                     |             |                                      | x2
                                   score         score ------------------------------- (+)
                                     |                                                    | x2
                                     |------------------------------------------------- (+)
                                                                                          | x8 --> logits

    The stages are those of VGG16, each followed by max-pooling. Three things differ from the paper. Its network starts from
    ImageNet and has no normalisation; here weights are drawn anew (He) and batch normalisation follows each convolution, without
    which so deep a network trains badly from there; ``norm=None`` gives the published layers. Its images are padded by 100 pixels
    so that fc6 has a valid place; here fc6 keeps the size of the map, and the image is padded inside to a multiple of 32 only, so
    that any size is taken. Its last upsampling is fixed to bilinear; here all three start bilinear and are learned.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of the five stages; VGG16's are the default.
        fc_channels: channels of fc6 and fc7; None takes eight times ``features[-1]``, which are VGG16's 4096.
        act: activation after each convolution.
        norm: normalisation after each convolution.
        dropout: dropout probability after fc6 and fc7; 0.5 in the paper.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (64, 128, 256, 512, 512),
        fc_channels: int | None = None,
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_arguments("FCN8s", spatial_dims, in_channels, out_channels, features, dropout)
        if fc_channels is not None and fc_channels < 1:
            raise ValueError(f"FCN8s: fc_channels={fc_channels}; give 1 or more, or None for eight times features[-1].")
        self.stride = 32
        hidden = fc_channels or 8 * features[-1]
        conv, pool = Conv[Conv.CONV, spatial_dims], Pool[Pool.MAX, spatial_dims]
        before = [in_channels, *features[:-1]]
        stages = [
            nn.Sequential(
                convolution_stage(spatial_dims, [before[i], *[features[i]] * n], act, norm, dropout=0.0),
                pool(kernel_size=2, stride=2),
            )
            for i, n in enumerate(VGG16_CONVOLUTIONS)
        ]
        self.to_pool3 = nn.Sequential(*stages[:3])
        self.to_pool4, self.to_pool5 = stages[3], stages[4]
        self.classifier = nn.Sequential(
            *(
                Convolution(
                    spatial_dims, width, hidden, kernel_size=k, act=act, norm=norm, dropout=dropout, bias=norm is None
                )
                for width, k in ((features[-1], 7), (hidden, 1))
            )
        )
        self.score = conv(hidden, out_channels, kernel_size=1)
        self.score_pool4 = conv(features[3], out_channels, kernel_size=1)
        self.score_pool3 = conv(features[2], out_channels, kernel_size=1)
        start_from_he(self)
        self.upsample = bilinear_upsampling(spatial_dims, out_channels, 2)
        self.upsample_pool4 = bilinear_upsampling(spatial_dims, out_channels, 2)
        self.upsample_pool3 = bilinear_upsampling(spatial_dims, out_channels, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is (H, W) or (H, W, D)."""
        pool3 = self.to_pool3(pad_to_multiple(x, self.stride, 2))
        pool4 = self.to_pool4(pool3)
        coarse = self.score(self.classifier(self.to_pool5(pool4)))
        middle = self.upsample(coarse) + self.score_pool4(pool4)
        fine = self.upsample_pool4(middle) + self.score_pool3(pool3)
        return crop_to(self.upsample_pool3(fine), x.shape[2:])
