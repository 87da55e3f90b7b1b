# SPDX-License-Identifier: Apache-2.0
"""Encoder of a standard U-Net: five blocks, each two 3x3 convolutions with normalisation and activation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.basic_unet import Down, TwoConv
from torch import nn


class UNetEncoder(nn.Module):
    """U-Net encoder that returns the output of every block (Saeed et al. 2024, section "Feature Fusion Module").

    The paper uses blocks 2 to 5 of a standard U-Net. Two convolutions per block with max-pooling between blocks are our reading of
    "standard"; both are MONAI's ``TwoConv`` and ``Down`` of ``BasicUNet``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        features: channels of the blocks, finest first.
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
        shared: dict[str, Any] = {"spatial_dims": spatial_dims, "act": act, "norm": norm, "bias": False, "dropout": dropout}
        blocks: list[nn.Module] = [TwoConv(in_chns=in_channels, out_chns=features[0], **shared)]
        for in_width, out_width in itertools.pairwise(features):
            blocks.append(Down(in_chns=in_width, out_chns=out_width, **shared))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map (B, in_channels, *size) to one tensor (B, features[i], *size / 2**i) per block."""
        outputs: list[torch.Tensor] = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs
