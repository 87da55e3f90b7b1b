# SPDX-License-Identifier: Apache-2.0
"""The encoder of a standard U-Net: five blocks, each two 3x3 convolutions with normalisation and activation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unet import Down, TwoConv
from torch import nn


class UNetEncoder(nn.Module):
    """U-Net encoder that returns the output of every block (Saeed et al. 2024, "Feature Fusion Module").

    The paper takes blocks 2 to 5 of a standard U-Net. Two convolutions a block with max-pooling between blocks is our reading of
    "standard"; both come from MONAI's ``BasicUNet``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        features: channels of the blocks, from full resolution downwards.
        act: activation after each convolution.
        norm: normalisation after each convolution.
        dropout: dropout probability after each convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int],
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = [TwoConv(spatial_dims, in_channels, features[0], act, norm, False, dropout)]
        for fewer, more in itertools.pairwise(features):
            blocks.append(Down(spatial_dims, fewer, more, act, norm, False, dropout))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map (B, in_channels, *size) to one (B, features[i], *size / 2**i) tensor per block."""
        outputs: list[torch.Tensor] = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs
