# SPDX-License-Identifier: Apache-2.0
"""Discriminating network of Spine-GAN: classification of label maps as reference or predicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Dropout, Pool
from torch import nn

from ..padding import pad_to_multiple
from ..renamed_weights import RenamedSubmodules
from .base import BaselineNetwork


class SpineGANDiscriminator(RenamedSubmodules, BaselineNetwork):
    """Discriminating network of Spine-GAN (Han et al. 2018, doi:10.1016/j.media.2018.08.005)::

        class map -- (7x7 conv with stride 2, BN, ReLU, average pool) x 3 -- 1x1, ReLU, dropout -- 1x1 --> logits

    The abstract states a network that discriminates predicted from reference label maps; the full text was not available to us.
    Layers and widths are those of the authors' code (github.com/zhyhan/Spine-GAN), used as a specification: the image is not an
    input, and the dense layers run at each position, so that there is a logit for every patch of 64x64. Ours: no bias before a
    normalisation, 3D, and any size: the border is replicated until the last normalisation has more than one position.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the class map: the classes of the softmax, background included.
        features: channels of each block, which reduces the size to a quarter.
        hidden: channels of the last but one layer.
        act: activation.
        norm: normalisation.
        dropout: dropout probability before the last layer.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    FORMER_NAMES: ClassVar[dict[str, str]] = {"judge": "classifier"}
    num_stages, more_stages = 1, True

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 2,
        features: Sequence[int] = (32, 64, 128),
        hidden: int = 256,
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple = "batch",
        dropout: float = 0.4,
    ) -> None:
        min_size = 4 ** len(features)
        super().__init__(spatial_dims, in_channels, 1, features, dropout, stride=1, min_multiples=min_size)
        self._require(hidden >= 1, "hidden", hidden, "be 1 or more")
        conv = partial(Convolution, spatial_dims=spatial_dims, act=act)
        layers: list[nn.Module] = []
        for in_width, width in zip((in_channels, *features[:-1]), features, strict=True):
            layers.append(conv(in_channels=in_width, out_channels=width, strides=2, kernel_size=7, norm=norm, bias=False))
            layers.append(Pool[Pool.AVG, spatial_dims](kernel_size=2, stride=2, ceil_mode=True))
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            conv(in_channels=features[-1], out_channels=hidden, kernel_size=1, norm=None),
            Dropout[Dropout.DROPOUT, 1](dropout),
            Conv[Conv.CONV, spatial_dims](in_channels=hidden, out_channels=1, kernel_size=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map class maps (B, in_channels, *size) to logits (B, 1, *positions), positive for reference label maps."""
        return self.classifier(self.blocks(pad_to_multiple(x, self.stride, self.min_multiples)))
