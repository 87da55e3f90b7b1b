# SPDX-License-Identifier: Apache-2.0
"""1x1 projection between two levels of a feature pyramid, at the smaller of the two sizes."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Pool
from torch import nn
from torch.nn import functional

INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


class LevelProjection(nn.Module):
    """Projection of a feature map of one pyramid level to the channels and the size of another.

    To a coarser level the map is average-pooled *before* the 1x1 convolution, to a finer level it is interpolated *after* it. Both
    orders are the same linear map, and the convolution runs at the smaller of the two sizes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source level.
        out_channels: channels of the target level.
        level_shift: source level minus target level: 1 for a source of half the size of the target, -1 for twice.
        norm: normalisation after the convolution; None: the convolution has a bias.
        act: activation after the normalisation, or None.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        level_shift: int = 0,
        norm: str | tuple = "batch",
        act: str | tuple | None = None,
    ) -> None:
        super().__init__()
        self.mode = INTERPOLATION[spatial_dims]
        self.upsamples = level_shift > 0
        stride = 2 ** max(-level_shift, 0)
        self.pool: nn.Module = Pool[Pool.AVG, spatial_dims](kernel_size=stride, stride=stride) if stride > 1 else nn.Identity()
        self.project = Convolution(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=1,
            norm=norm,
            act=act,
            bias=norm is None,
        )

    def forward(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Map ``x`` (B, in_channels, *source size) to (B, out_channels, *size), with the size of ``like`` (B, C, *size)."""
        x = self.project(self.pool(x))
        if self.upsamples:
            x = functional.interpolate(x, size=like.shape[2:], mode=self.mode, align_corners=False)
        return x
