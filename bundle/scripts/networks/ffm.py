# SPDX-License-Identifier: Apache-2.0
"""Feature Fusion Module: every level of the encoder receives the features of the other levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Pool
from torch import nn
from torch.nn import functional

from .projection import INTERPOLATION
from .separable import SeparableConvolution


class LevelFusion(nn.Module):
    """Fusion of all levels at the size of one: project the others to it, sum, then one separable convolution.

    Coarser levels are added from the coarsest up, each sum interpolated to the next size, so that only one map is interpolated to
    the size of the level.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of every level, finest first.
        level: index of the level at whose size the others are fused.
        act: activation after the separable convolution.
        norm: normalisation after every convolution.
    """

    def __init__(
        self, spatial_dims: int, channels: Sequence[int], level: int, act: str | tuple = "relu", norm: str | tuple = "batch"
    ) -> None:
        super().__init__()
        self.level = level
        self.mode = INTERPOLATION[spatial_dims]
        self.projections = nn.ModuleList(
            Convolution(
                spatial_dims=spatial_dims,
                in_channels=width,
                out_channels=channels[level],
                kernel_size=1,
                act=None,
                norm=norm,
                bias=False,
            )
            for width in channels
        )
        self.projections[level] = nn.Identity()
        self.refine = SeparableConvolution(
            spatial_dims=spatial_dims, in_channels=channels[level], out_channels=channels[level], act=act, norm=norm
        )

    def forward(self, features: list[torch.Tensor], pooled: list[torch.Tensor]) -> torch.Tensor:
        """Fuse all levels into (B, channels[level], *size of that level).

        Args:
            features: all levels, finest first, each (B, channels[i], *size / 2**i).
            pooled: the finer levels average-pooled to the size of this one, finest first.
        """
        projected: list[torch.Tensor] = []
        for source, projection in enumerate(self.projections):
            projected.append(projection(pooled[source] if source < self.level else features[source]))
        fused = projected[-1]
        for source in range(len(projected) - 2, self.level - 1, -1):
            finer = projected[source]
            fused = finer + functional.interpolate(fused, size=finer.shape[2:], mode=self.mode, align_corners=False)
        for source in range(self.level):
            fused = fused + projected[source]
        return self.refine(fused)


class FeatureFusionModule(nn.Module):
    """FFM (Saeed et al. 2024): "each hierarchical feature is thoroughly integrated with the remaining three".

    How the features are integrated is not stated in the paper. Here every other level is projected by a 1x1 convolution, resized
    and added, and the sum is refined by a separable convolution, a tenth of the cost of a full one::

        level i -----------------------------(+)-- separable conv --> fused level i
        coarser levels -- 1x1 -- interpolate --|
        finer levels -- average pool -- 1x1 ---|

    The 1x1 convolution runs at the smaller of the two sizes.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of every level, finest first; each level has half the size of the previous one.
        act: activation after each separable convolution.
        norm: normalisation after each convolution.

    Raises:
        ValueError: when there are fewer than two levels.
    """

    def __init__(self, spatial_dims: int, channels: Sequence[int], act: str | tuple = "relu", norm: str | tuple = "batch") -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"FeatureFusionModule: channels={tuple(channels)}; must have two or more levels.")
        self.levels = nn.ModuleList(
            LevelFusion(spatial_dims=spatial_dims, channels=channels, level=level, act=act, norm=norm)
            for level in range(len(channels))
        )
        self.pool = Pool[Pool.AVG, spatial_dims](kernel_size=2, stride=2)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map the levels, each (B, channels[i], *size / 2**i), to fused levels of the same shapes."""
        fused: list[torch.Tensor] = []
        pooled: list[torch.Tensor] = []
        for index, level in enumerate(self.levels):
            if index > 0:
                halved: list[torch.Tensor] = []
                for finer in pooled:
                    halved.append(self.pool(finer))
                halved.append(self.pool(features[index - 1]))
                pooled = halved
            fused.append(level(features, pooled))
        return fused
