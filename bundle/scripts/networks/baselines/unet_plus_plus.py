# SPDX-License-Identifier: Apache-2.0
"""U-Net++: a U-Net with nested, dense skip connections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import BasicUNetPlusPlus
from torch import nn

from .base import BaselineNetwork


class UNetPlusPlus(BaselineNetwork):
    """U-Net++ of Zhou et al. 2020 (doi:10.1109/TMI.2019.2959609), MONAI's ``BasicUNetPlusPlus`` without deep supervision::

        X00 ------ X01 ------ X02 ------ X03 ------ X04 -- 1x1 --> logits
           X10 ------ X11 ------ X12 ------ X13
              X20 ------ X21 ------ X22
                 X30 ------ X31
                    X40

    Every node is two 3x3 convolutions of all earlier nodes of its row and the upsampled node below. The first row of MONAI's
    network differs from the published one: the upsampled map keeps its ``features[1]`` channels there, where the paper halves them,
    so that the network is a little larger. The heads of the other nodes of that row, used by deep supervision alone, are left out.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes of the softmax, background included.
        features: channels of the five rows, finest first; the default is that of the paper. All but the first must be even.
        act: activation after each 3x3 convolution.
        norm: normalisation after each 3x3 convolution.
        dropout: dropout probability after each 3x3 convolution.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 64, 128, 256, 512),
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, features, dropout, stride=16, min_multiples=2)
        even = all(width % 2 == 0 for width in features[1:])
        self._require(even, "features", tuple(features), "be even after the first width, which upsampling halves")
        self.nodes = BasicUNetPlusPlus(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            features=(*features, features[0]),
            deep_supervision=False,
            act=act,
            norm=norm,
            bias=norm is None,
            dropout=dropout,
        )
        # MONAI builds and runs the heads of deep supervision in either case; their parameters would receive no gradient.
        self.nodes.final_conv_0_1 = nn.Identity()
        self.nodes.final_conv_0_2 = nn.Identity()
        self.nodes.final_conv_0_3 = nn.Identity()

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is a multiple of the stride."""
        return self.nodes(x)[0]
