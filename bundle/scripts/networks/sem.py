# SPDX-License-Identifier: Apache-2.0
"""Squeeze and Excitation Module: reweight the channels of every level, then bring all levels to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import ChannelSELayer
from torch import nn

from .projection import LevelProjection


class SqueezeExcitationModule(nn.Module):
    """SEM (Saeed et al. 2024; squeeze-and-excitation: Hu et al. 2018, doi:10.1109/CVPR.2018.00745).

    Every level passes global average pooling, two dense layers and a sigmoid gate (MONAI's ``ChannelSELayer``); a 1x1 convolution
    then brings it to ``out_channels`` and to the size of ``target_level``; the levels are concatenated. The reduction ratio and
    the common size are not stated in the paper.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of every level, finest first.
        out_channels: channels that each level contributes to the concatenation.
        target_level: index of the level whose size all levels are brought to.
        excite: False leaves the gate out and keeps the 1x1 projection (the ablation "No SEM").
        reduction: ratio of the hidden dense layer; it keeps at least eight units, as a narrower one can die behind its ReLU.
        act: activation after the 1x1 convolution.
        norm: normalisation after the 1x1 convolution.

    Raises:
        ValueError: when ``target_level`` is not a level.
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
            raise ValueError(
                f"SqueezeExcitationModule: target_level={target_level}; give one of 0 to {len(channels) - 1}."
            )
        self.target_level = target_level
        self.gates = nn.ModuleList(
            ChannelSELayer(spatial_dims, width, r=max(min(reduction, width // 8), 1)) if excite else nn.Identity()
            for width in channels
        )
        self.projections = nn.ModuleList(
            LevelProjection(spatial_dims, width, out_channels, level - target_level, norm=norm, act=act)
            for level, width in enumerate(channels)
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Map the levels, each (B, channels[i], *size / 2**i), to (B, len(channels) * out_channels, *target size)."""
        target = features[self.target_level]
        outputs: list[torch.Tensor] = []
        for level, (gate, projection) in enumerate(zip(self.gates, self.projections)):
            outputs.append(projection(gate(features[level]), target))
        return torch.cat(outputs, dim=1)
