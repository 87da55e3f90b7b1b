# SPDX-License-Identifier: Apache-2.0
"""Squeeze and Excitation Module: channel attention at every level, then all levels resized and concatenated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import ChannelSELayer
from torch import nn

from .projection import LevelProjection


class SqueezeExcitationModule(nn.Module):
    """SEM (Saeed et al. 2024; squeeze-and-excitation: Hu et al. 2018, doi:10.1109/CVPR.2018.00745)::

        level i --+-- global average pool -- dense, ReLU -- dense, sigmoid --(x)-- 1x1 conv, BN, ReLU -- resize --cat--> out
                  |-----------------------------------------------------------|

    The gate is MONAI's ``ChannelSELayer``. The reduction ratio and the common size are not stated in the paper.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of every level, finest first.
        out_channels: channels of each level in the concatenation.
        target_level: index of the level whose size is the common one.
        excite: whether there are gates; the ablation "No SEM" has the 1x1 convolutions alone.
        reduction: ratio of channels to units of the hidden dense layer, which has at least eight: in a narrower layer all units can
            be inactive after the ReLU.
        act: activation after the 1x1 convolution.
        norm: normalisation after the 1x1 convolution.

    Raises:
        ValueError: when ``target_level`` is out of range.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        out_channels: int,
        target_level: int = 0,
        excite: bool = True,
        reduction: int = 4,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        if not 0 <= target_level < len(channels):
            raise ValueError(f"SqueezeExcitationModule: target_level={target_level}; must be between 0 and {len(channels) - 1}.")
        self.target_level = target_level
        self.gates = nn.ModuleList(
            ChannelSELayer(spatial_dims=spatial_dims, in_channels=width, r=max(min(reduction, width // 8), 1))
            if excite
            else nn.Identity()
            for width in channels
        )
        self.projections = nn.ModuleList(
            LevelProjection(
                spatial_dims=spatial_dims,
                in_channels=width,
                out_channels=out_channels,
                level_shift=level - target_level,
                norm=norm,
                act=act,
            )
            for level, width in enumerate(channels)
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Map the levels, each (B, channels[i], *size / 2**i), to (B, len(channels) * out_channels, *target size)."""
        target = features[self.target_level]
        outputs: list[torch.Tensor] = []
        for level, (gate, projection) in enumerate(zip(self.gates, self.projections)):
            outputs.append(projection(gate(features[level]), target))
        return torch.cat(outputs, dim=1)
