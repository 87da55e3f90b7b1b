# SPDX-License-Identifier: Apache-2.0
"""Feature Fusion Module: every level of the encoder receives what the other levels know."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import nn

from .projection import LevelProjection


class LevelFusion(nn.Module):
    """Fuse all levels into one of them: project the others to it, sum, then one 3x3 convolution.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of every level, finest first.
        level: index of the level that is built.
        act: activation after the 3x3 convolution.
        norm: normalisation after every convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        level: int,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        self.level = level
        self.sources = [source for source in range(len(channels)) if source != level]
        self.projections = nn.ModuleList(
            LevelProjection(spatial_dims, channels[source], channels[level], source - level, norm=norm) for source in self.sources
        )
        self.refine = Convolution(
            spatial_dims=spatial_dims,
            in_channels=channels[level],
            out_channels=channels[level],
            kernel_size=3,
            act=act,
            norm=norm,
            bias=False,
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return (B, channels[level], *size of that level)."""
        own = features[self.level]
        fused = own
        for k, projection in enumerate(self.projections):
            fused = fused + projection(features[self.sources[k]], own)
        return self.refine(fused)


class FeatureFusionModule(nn.Module):
    """FFM (Saeed et al. 2024): "each hierarchical feature is thoroughly integrated with the remaining three".

    How the features are integrated is not stated in the paper. Here every other level is projected by a 1x1 convolution, brought
    to the level's size, added, and the sum refined by a 3x3 convolution::

        level i --------------------(+)-- 3x3 conv, BN, ReLU --> fused level i
        other levels -- 1x1, resize --|

    Args:
        spatial_dims: 2 or 3.
        channels: channels of every level, finest first; each level is half as large as the one before.
        act: activation after each 3x3 convolution.
        norm: normalisation after each convolution.

    Raises:
        ValueError: when fewer than two levels are given.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"FeatureFusionModule: channels={tuple(channels)} has one level; give two or more to fuse.")
        self.levels = nn.ModuleList(
            LevelFusion(spatial_dims, channels, level, act=act, norm=norm) for level in range(len(channels))
        )

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map the levels, each (B, channels[i], *size / 2**i), to fused levels of the same shapes."""
        fused: list[torch.Tensor] = []
        for level in self.levels:
            fused.append(level(features))
        return fused
