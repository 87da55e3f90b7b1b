# SPDX-License-Identifier: Apache-2.0
"""Residual Border Refinement Attention Block: two convolutions and self-attention, concatenated with the input."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from torch import nn
from torch.nn import functional

from .projection import INTERPOLATION
from .renamed_weights import RenamedSubmodules


class PooledSelfAttention(RenamedSubmodules):
    """Self-attention with a fixed grid of tokens as keys and values, so that the cost is linear in the number of positions::

        x --+-- average pool --+-- query ----------------------|
            |                  |-- interpolate -- key, value --+-- attention -- 1x1 -- interpolate -- gate --(+)--> out
            |-------------------------------------------------------------------------------------------------|

    Attention adds context at a reduced resolution, the residual path keeps the detail. The learned gate starts near zero, so that
    training begins from the convolutional block, and not at zero, where the projections would receive no gradient in the first
    step.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        token_grid: keys and values per axis.
        query_stride: stride of the pooling in front of query, key and value.
        reduction: ratio of ``channels`` to the channels of query, key and value.
        gate: initial value of the residual gate.

    Raises:
        ValueError: when ``token_grid`` or ``query_stride`` is below 1.
    """

    FORMER_NAMES: ClassVar[dict[str, str]] = {"answer": "out_proj"}

    def __init__(
        self, spatial_dims: int, channels: int, token_grid: int = 16, query_stride: int = 2, reduction: int = 2, gate: float = 0.01
    ) -> None:
        super().__init__()
        if token_grid < 1 or query_stride < 1:
            raise ValueError(f"PooledSelfAttention: token_grid={token_grid}, query_stride={query_stride}; must be 1 or more each.")
        conv = Conv[Conv.CONV, spatial_dims]
        hidden = max(channels // reduction, 1)
        self.grid = [token_grid] * spatial_dims
        self.mode = INTERPOLATION[spatial_dims]
        self.pool = Pool[Pool.AVG, spatial_dims](kernel_size=query_stride, stride=query_stride, ceil_mode=True)
        self.query = conv(channels, hidden, kernel_size=1)
        self.key = conv(channels, hidden, kernel_size=1)
        # As wide as query and key: PyTorch's attention kernel for unequal widths is five times slower on CPU.
        self.value = conv(channels, hidden, kernel_size=1)
        self.out_proj = conv(hidden, channels, kernel_size=1)
        self.gate = nn.Parameter(torch.tensor(float(gate)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        pooled = self.pool(x)
        tokens = functional.interpolate(pooled, size=self.grid, mode=self.mode, align_corners=False)
        # Attention with the channels last, and a view back: no copy of channels-last memory.
        query = self.query(pooled).movedim(1, -1)
        key = self.key(tokens).movedim(1, -1).flatten(1, -2)
        value = self.value(tokens).movedim(1, -1).flatten(1, -2)
        # One head; the attention kernels of some runtimes require the axis of heads.
        attended = functional.scaled_dot_product_attention(query.flatten(1, -2).unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1))
        context = self.out_proj(attended.squeeze(1).reshape(query.shape).movedim(-1, 1))
        context = functional.interpolate(context, size=x.shape[2:], mode=self.mode, align_corners=False)
        return x + self.gate * context


class ResidualBorderRefinementAttention(nn.Module):
    """RBRAB (Saeed et al. 2024, section "Residual Border Refinement Attention Block", Fig. 5)::

        x --+-- (3x3 conv, BN, ReLU) x 2 -- self-attention --cat-- 1x1 --> out
            |------------------------------------------------|

    The size of the attention and the 1x1 convolution that restores the width are not stated in the paper.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        token_grid: keys and values per axis of the self-attention.
        query_stride: stride of the queries of the self-attention.
        act: activation after each convolution.
        norm: normalisation after each convolution.
        dropout: dropout probability after each 3x3 convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        token_grid: int = 16,
        query_stride: int = 2,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        conv = partial(Convolution, spatial_dims=spatial_dims, out_channels=channels, act=act, norm=norm, bias=False)
        self.convs = nn.Sequential(*(conv(in_channels=channels, kernel_size=3, dropout=dropout) for _ in range(2)))
        self.attention = PooledSelfAttention(
            spatial_dims=spatial_dims, channels=channels, token_grid=token_grid, query_stride=query_stride
        )
        self.merge = conv(in_channels=2 * channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        return self.merge(torch.cat([self.attention(self.convs(x)), x], dim=1))
