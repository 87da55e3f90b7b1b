# SPDX-License-Identifier: Apache-2.0
"""U-Net++: a U-Net whose skip connections are U-Nets themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import BasicUNetPlusPlus
from torch import nn

from .common import check_arguments
from .padding import crop_to, pad_to_multiple


class UNetPlusPlus(nn.Module):
    """U-Net++ of Zhou et al. 2020 (doi:10.1109/TMI.2019.2959609), MONAI's ``BasicUNetPlusPlus`` without deep supervision::

        X00 ------ X01 ------ X02 ------ X03 ------ X04 -- 1x1 --> logits
           X10 ------ X11 ------ X12 ------ X13
              X20 ------ X21 ------ X22
                 X30 ------ X31
                    X40

    Every node is two 3x3 convolutions on all earlier nodes of its row and the node below, upsampled. MONAI's network differs from
    the published one in the first row: what comes from below keeps its ``features[1]`` channels there, where the paper halves
    them, so that it is a little larger. The heads of the other nodes of that row, which only deep supervision uses, are left out.

    Any input size is taken: the image is padded inside to a multiple of 16 and the output cropped back.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of the five rows, from full resolution downwards; the paper's are the default. All but the first
            must be even.
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
        super().__init__()
        check_arguments("UNetPlusPlus", spatial_dims, in_channels, out_channels, features, dropout)
        if any(width % 2 for width in features[1:]):
            raise ValueError(f"UNetPlusPlus: features={tuple(features)}; all but the first must be even, to be halved.")
        self.stride = 16
        self.nodes = BasicUNetPlusPlus(
            spatial_dims,
            in_channels,
            out_channels,
            (*features, features[0]),
            deep_supervision=False,
            act=act,
            norm=norm,
            bias=norm is None,
            dropout=dropout,
        )
        # MONAI builds and runs these heads in either case; no gradient would ever reach them.
        self.nodes.final_conv_0_1 = nn.Identity()
        self.nodes.final_conv_0_2 = nn.Identity()
        self.nodes.final_conv_0_3 = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is (H, W) or (H, W, D)."""
        logits = self.nodes(pad_to_multiple(x, self.stride, 2))[0]
        return crop_to(logits, x.shape[2:])
