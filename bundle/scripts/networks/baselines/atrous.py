# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling of DeepLabv3+, and its convolutions, plain or separable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.blocks import Convolution
from torch import nn


def spatial_convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    rate: int,
    separable: bool,
    act: str | tuple,
    norm: str | tuple,
    dropout: float = 0.0,
) -> nn.Module:
    """3x3 convolution with normalisation and activation, plain or atrous separable (Chen et al. 2018, section 3.1).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        rate: dilation.
        separable: whether it is a depthwise and a 1x1 convolution, each with normalisation and activation.
        act: activation.
        norm: normalisation.
        dropout: dropout probability after the last normalisation.

    Returns:
        A module that maps (B, in_channels, *size) to (B, out_channels, *size).
    """
    conv = partial(Convolution, spatial_dims=spatial_dims, in_channels=in_channels, act=act, norm=norm, bias=False)
    if not separable:
        return conv(out_channels=out_channels, kernel_size=3, dilation=rate, dropout=dropout)
    return nn.Sequential(
        conv(out_channels=in_channels, kernel_size=3, dilation=rate, groups=in_channels),
        conv(out_channels=out_channels, kernel_size=1, dropout=dropout),
    )


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling with a branch of the image mean (Chen et al. 2018)::

        x --+-- 1x1 conv -----------------------------|
            |-- 3x3 conv, rates[0] -------------------+--cat-- 1x1 conv --> out
            |-- 3x3 conv, rates[...] -----------------|
            |-- mean over the image -- 1x1 conv ------|

    The mean has a single position. Batch normalisation refuses it in training for a batch of one image, and mixes the images of a
    small batch. That branch has a group normalisation of one group instead, with as many parameters, computed for each image alone.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of each branch and of the output.
        rates: dilations of the 3x3 branches.
        separable: whether these are separable.
        act: activation after each convolution.
        norm: normalisation after each convolution except that of the mean.
        dropout: dropout probability after the last convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int] = (6, 12, 18),
        separable: bool = False,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.axes = list(range(2, 2 + spatial_dims))
        conv = partial(Convolution, spatial_dims=spatial_dims, out_channels=out_channels, kernel_size=1, act=act, bias=False)
        self.branches = nn.ModuleList(
            [
                conv(in_channels=in_channels, norm=norm),
                *(
                    spatial_convolution(spatial_dims, in_channels, out_channels, rate, separable, act=act, norm=norm)
                    for rate in rates
                ),
            ]
        )
        self.mean = conv(in_channels=in_channels, norm=("group", {"num_groups": 1}))
        self.join = conv(in_channels=(len(rates) + 2) * out_channels, norm=norm, dropout=dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *size)."""
        outputs: list[torch.Tensor] = []
        for branch in self.branches:
            outputs.append(branch(x))
        mean = self.mean(x.mean(dim=self.axes, keepdim=True))
        outputs.append(mean.expand_as(outputs[0]))
        return self.join(torch.cat(outputs, dim=1))
