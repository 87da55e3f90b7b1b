# SPDX-License-Identifier: Apache-2.0
"""FCN-8s: a fully convolutional classification network, its coarse scores refined by those of two earlier stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from .base import BaselineNetwork
from .vgg16 import vgg16_stages


def bilinear_upsampling(spatial_dims: int, channels: int, factor: int) -> nn.Module:
    """Learnable transposed convolution, initialised to linear interpolation by ``factor``.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output; the initial kernel does not mix them.
        factor: stride, an even number.

    Returns:
        A module that maps (B, channels, *size) to (B, channels, *factor * size).
    """
    upsampling = Conv[Conv.CONVTRANS, spatial_dims](
        in_channels=channels, out_channels=channels, kernel_size=2 * factor, stride=factor, padding=factor // 2, bias=False
    )
    distance = torch.arange(2 * factor, dtype=torch.float32) - (factor - 0.5)
    kernel_1d = 1.0 - distance.abs() / factor
    kernel = kernel_1d
    for _ in range(spatial_dims - 1):
        kernel = kernel.unsqueeze(-1) * kernel_1d
    with torch.no_grad():
        upsampling.weight.zero_()
        for channel in range(channels):
            upsampling.weight[channel, channel] = kernel
    return upsampling


class FCN8s(BaselineNetwork):
    """FCN-8s of Shelhamer, Long, Darrell 2017 (doi:10.1109/TPAMI.2016.2572683; Long 2015, doi:10.1109/CVPR.2015.7298965)::

        image -- stage 1 -- 2 -- 3 --+-- stage 4 --+-- stage 5 -- fc6 7x7 -- fc7 1x1 -- score
                                     |             |                                      | x2
                                   score         score ------------------------------- (+)
                                     |                                                    | x2
                                     |------------------------------------------------- (+)
                                                                                          | x8 --> logits

    The stages are those of VGG16, each followed by max-pooling. There are three differences from the paper. Its network is
    pretrained on ImageNet and has no normalisation; here weights have He initialisation and batch normalisation follows each
    convolution, without which a network of this depth trains poorly from scratch; ``norm=None`` builds the published layers. Its
    images are padded by 100 pixels so that fc6 has a valid position; here fc6 keeps the size of the map, and images are padded to a
    multiple of 32 only. Its last upsampling is fixed to bilinear; here all three are initialised to bilinear and learned.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes of the softmax, background included.
        features: channels of the five stages; the default is VGG16.
        fc_channels: channels of fc6 and fc7; None: eight times ``features[-1]``, VGG16's 4096.
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
        super().__init__(spatial_dims, in_channels, out_channels, features, dropout, stride=32, min_multiples=2)
        hidden = 8 * features[-1] if fc_channels is None else fc_channels
        self._require(hidden >= 1, "fc_channels", fc_channels, "be 1 or more, or None for eight times features[-1]")
        conv, pool = Conv[Conv.CONV, spatial_dims], Pool[Pool.MAX, spatial_dims]
        stages = [
            nn.Sequential(stage, pool(kernel_size=2, stride=2))
            for stage in vgg16_stages(spatial_dims, in_channels, features, act, norm)
        ]
        self.to_pool3 = nn.Sequential(*stages[:3])
        self.to_pool4, self.to_pool5 = stages[3], stages[4]
        self.classifier = nn.Sequential(
            *(
                Convolution(
                    spatial_dims=spatial_dims,
                    in_channels=width,
                    out_channels=hidden,
                    kernel_size=kernel_size,
                    act=act,
                    norm=norm,
                    dropout=dropout,
                    bias=norm is None,
                )
                for width, kernel_size in ((features[-1], 7), (hidden, 1))
            )
        )
        self.score = conv(in_channels=hidden, out_channels=out_channels, kernel_size=1)
        self.score_pool4 = conv(in_channels=features[3], out_channels=out_channels, kernel_size=1)
        self.score_pool3 = conv(in_channels=features[2], out_channels=out_channels, kernel_size=1)
        self._initialize_he()
        self.upsample = bilinear_upsampling(spatial_dims, out_channels, factor=2)
        self.upsample_pool4 = bilinear_upsampling(spatial_dims, out_channels, factor=2)
        self.upsample_pool3 = bilinear_upsampling(spatial_dims, out_channels, factor=8)

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is a multiple of the stride."""
        pool3 = self.to_pool3(x)
        pool4 = self.to_pool4(pool3)
        coarse = self.score(self.classifier(self.to_pool5(pool4)))
        middle = self.upsample(coarse) + self.score_pool4(pool4)
        fine = self.upsample_pool4(middle) + self.score_pool3(pool3)
        return self.upsample_pool3(fine)
