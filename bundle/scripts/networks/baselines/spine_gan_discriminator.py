# SPDX-License-Identifier: Apache-2.0
"""The discriminating network of Spine-GAN: is a label map drawn by a person or predicted?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Dropout, Pool
from torch import nn
from torch.nn import functional


class SpineGANDiscriminator(nn.Module):
    """Discriminating network of Spine-GAN (Han et al. 2018, doi:10.1016/j.media.2018.08.005)::

        class map -- (7x7 conv with stride 2, BN, ReLU, average pool) x 3 -- 1x1, ReLU, dropout -- 1x1 --> logits

    The abstract states a network that judges predicted label maps against true ones; the text behind it was not open to us. Layers
    and widths are those of the authors' code (github.com/zhyhan/Spine-GAN), read for its facts: the image is not shown, and the
    dense layers work on each position, so that every patch of 64x64 gets a judgement. Ours: no bias before a normalisation, 3D,
    and any size of at least one voxel: the border is repeated until the last normalisation sees more than one position.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the class map: the classes, background included.
        features: channels of each block, which takes a quarter of the size.
        hidden: channels of the layer before the last.
        act: activation.
        norm: normalisation.
        dropout: dropout probability before the last layer.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

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
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"SpineGANDiscriminator: spatial_dims={spatial_dims}; give 2 or 3.")
        if min(in_channels, hidden) < 1:
            raise ValueError(
                f"SpineGANDiscriminator: in_channels={in_channels}, hidden={hidden}; both must be 1 or more."
            )
        if not features or min(features) < 1:
            raise ValueError(
                f"SpineGANDiscriminator: features={tuple(features)}; give the positive width of one or more blocks."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"SpineGANDiscriminator: dropout={dropout}; give a probability of at least 0 and below 1.")
        self.spatial_dims = spatial_dims
        self.least = 4 ** len(features)
        conv = Conv[Conv.CONV, spatial_dims]
        layers: list[nn.Module] = []
        for before, after in zip((in_channels, *features[:-1]), features, strict=True):
            layers.append(Convolution(spatial_dims, before, after, 2, kernel_size=7, act=act, norm=norm, bias=False))
            layers.append(Pool[Pool.AVG, spatial_dims](kernel_size=2, stride=2, ceil_mode=True))
        self.blocks = nn.Sequential(*layers)
        self.judge = nn.Sequential(
            Convolution(spatial_dims, features[-1], hidden, kernel_size=1, act=act, norm=None),
            Dropout[Dropout.DROPOUT, 1](dropout),
            conv(hidden, 1, kernel_size=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map class maps (B, in_channels, *size) to logits (B, 1, *positions), high where the map looks drawn by a person."""
        pads: list[int] = []
        for axis in range(self.spatial_dims - 1, -1, -1):
            pads.extend([0, max(self.least - x.shape[2 + axis], 0)])
        if max(pads) > 0:
            x = functional.pad(x, pads, mode="replicate")
        return self.judge(self.blocks(x))
