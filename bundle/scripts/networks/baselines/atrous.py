# SPDX-License-Identifier: Apache-2.0
"""The pyramid of rates of DeepLabv3+, and its convolutions, plain or separable."""

from __future__ import annotations

from collections.abc import Sequence

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
    """A 3x3 convolution with normalisation and activation, or the atrous separable one of Chen et al. 2018, section 3.1.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        rate: dilation.
        separable: True: each channel by itself, then a 1x1 convolution across channels, both normalised and activated.
        act: activation.
        norm: normalisation.
        dropout: dropout probability after the last normalisation.

    Returns:
        A module that maps (B, in_channels, *size) to (B, out_channels, *size).
    """
    if not separable:
        return Convolution(
            spatial_dims, in_channels, out_channels, 1, 3, "NDA", act, norm, dropout, dilation=rate, bias=False
        )
    return nn.Sequential(
        Convolution(
            spatial_dims,
            in_channels,
            in_channels,
            kernel_size=3,
            act=act,
            norm=norm,
            dilation=rate,
            groups=in_channels,
            bias=False,
        ),
        Convolution(
            spatial_dims, in_channels, out_channels, kernel_size=1, act=act, norm=norm, dropout=dropout, bias=False
        ),
    )


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling with the mean of the image as one more branch (Chen et al. 2018).

    That branch has a single position. Batch normalisation refuses one in training when the batch is one image, and over a few
    images it would tell each what the others hold. The branch is normalised over its channels instead (a group normalisation of
    one group), which has as many parameters and needs no other position and no other image.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of each branch and of the output.
        rates: dilations of the 3x3 branches.
        separable: whether these are separable.
        act: activation after each convolution.
        norm: normalisation after each convolution but the one of the mean.
        dropout: dropout probability after the 1x1 convolution that joins the branches.
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
        branches: list[nn.Module] = [
            Convolution(spatial_dims, in_channels, out_channels, kernel_size=1, act=act, norm=norm, bias=False)
        ]
        for rate in rates:
            branches.append(spatial_convolution(spatial_dims, in_channels, out_channels, rate, separable, act, norm))
        self.branches = nn.ModuleList(branches)
        self.mean = Convolution(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size=1,
            act=act,
            norm=("group", {"num_groups": 1}),
            bias=False,
        )
        self.join = Convolution(
            spatial_dims,
            (len(rates) + 2) * out_channels,
            out_channels,
            kernel_size=1,
            act=act,
            norm=norm,
            dropout=dropout,
            bias=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *size)."""
        outputs: list[torch.Tensor] = []
        for branch in self.branches:
            outputs.append(branch(x))
        mean = self.mean(x.mean(dim=self.axes, keepdim=True))
        outputs.append(mean.expand_as(outputs[0]))
        return self.join(torch.cat(outputs, dim=1))
