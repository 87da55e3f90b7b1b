# SPDX-License-Identifier: Apache-2.0
"""Atrous Spatial Pyramid Pooling: context at several scales from dilated convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import SimpleASPP
from torch import nn


class AtrousSpatialPyramidPooling(nn.Module):
    """ASPP (Saeed et al. 2024; Chen et al. 2018, doi:10.1109/TPAMI.2017.2699184), on MONAI's ``SimpleASPP``::

        x --+-- 1x1 conv ----------------|
            |-- 3x3 conv, dilation 4 ----+--cat-- 1x1 conv, BN, ReLU --> out
            |-- 3x3 conv, dilation ... --|

    The rates are not stated in the paper.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output; every branch has an equal share of them.
        rates: dilation of each branch; the first branch is the 1x1 convolution.
        act: activation after the last convolution.
        norm: normalisation after the last convolution.

    Raises:
        ValueError: when ``out_channels`` is not divisible by the number of rates or a rate is below 1.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int] = (1, 2, 4, 8),
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"AtrousSpatialPyramidPooling: rates={tuple(rates)}; must be a sequence of one or more integers >= 1.")
        if out_channels % len(rates):
            raise ValueError(
                f"AtrousSpatialPyramidPooling: out_channels={out_channels}; must be a multiple of {len(rates)} (rates)."
            )
        self.branches = SimpleASPP(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            conv_out_channels=out_channels // len(rates),
            kernel_sizes=[1] + [3] * (len(rates) - 1),
            dilations=list(rates),
            norm_type=norm,
            acti_type=act,
            bias=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *size)."""
        return self.branches(x)
