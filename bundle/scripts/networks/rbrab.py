# SPDX-License-Identifier: Apache-2.0
"""Residual Border Refinement Attention Block: two convolutions, self-attention, and the input beside it."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from torch import nn
from torch.nn import functional

from .projection import INTERPOLATION


class PooledSelfAttention(nn.Module):
    """Self-attention whose keys and values are a fixed grid of tokens, so that cost is linear in the number of positions.

    Queries are taken at a reduced resolution and the answer is interpolated back: attention adds context, the residual path keeps
    the detail. A learned gate scales the answer. It starts near zero, so that training begins from the convolutional block, and not
    at zero, where no gradient would reach the projections in the first step.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        token_grid: keys and values per axis.
        query_stride: every n-th position per axis asks.
        reduction: channels of query, key and value are ``channels // reduction``; a 1x1 convolution brings the answer back.
        gate: initial value of the residual gate.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        token_grid: int = 16,
        query_stride: int = 2,
        reduction: int = 2,
        gate: float = 0.01,
    ) -> None:
        super().__init__()
        if token_grid < 1 or query_stride < 1:
            raise ValueError(
                f"PooledSelfAttention: token_grid={token_grid}, query_stride={query_stride}; both must be 1 or more."
            )
        conv = Conv[Conv.CONV, spatial_dims]
        hidden = max(channels // reduction, 1)
        self.grid = [token_grid] * spatial_dims
        self.mode = INTERPOLATION[spatial_dims]
        self.pool = Pool[Pool.AVG, spatial_dims](kernel_size=query_stride, stride=query_stride, ceil_mode=True)
        self.query = conv(channels, hidden, kernel_size=1)
        self.key = conv(channels, hidden, kernel_size=1)
        # As wide as query and key: unequal widths fall back to an attention kernel that is five times slower on CPU.
        self.value = conv(channels, hidden, kernel_size=1)
        self.answer = conv(hidden, channels, kernel_size=1)
        self.gate = nn.Parameter(torch.tensor(float(gate)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        pooled = self.pool(x)
        tokens = functional.interpolate(pooled, size=self.grid, mode=self.mode, align_corners=False)
        # Channels go last for the attention and come back as a view: no copy where the memory is channels-last already.
        query = self.query(pooled).movedim(1, -1)
        key = self.key(tokens).movedim(1, -1).flatten(1, -2)
        value = self.value(tokens).movedim(1, -1).flatten(1, -2)
        # One head; an explicit head axis keeps every runtime's attention kernel happy.
        attended = functional.scaled_dot_product_attention(
            query.flatten(1, -2).unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        )
        answer = self.answer(attended.squeeze(1).reshape(query.shape).movedim(-1, 1))
        answer = functional.interpolate(answer, size=x.shape[2:], mode=self.mode, align_corners=False)
        return x + self.gate * answer


class ResidualBorderRefinementAttention(nn.Module):
    """RBRAB (Saeed et al. 2024, section "Residual Border Refinement Attention Block", Fig. 5)::

        x --+-- (3x3 conv, BN, ReLU) x 2 -- self-attention --cat-- 1x1 --> out
            |------------------------------------------------|

    The size of the attention and the 1x1 convolution that restores the width are not stated in the paper.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output.
        token_grid: keys and values per axis of the self-attention.
        query_stride: every n-th position per axis asks.
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
        self.convs = nn.Sequential(
            *(
                Convolution(
                    spatial_dims, channels, channels, kernel_size=3, act=act, norm=norm, dropout=dropout, bias=False
                )
                for _ in range(2)
            )
        )
        self.attention = PooledSelfAttention(spatial_dims, channels, token_grid, query_stride)
        self.merge = Convolution(spatial_dims, 2 * channels, channels, kernel_size=1, act=act, norm=norm, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape."""
        return self.merge(torch.cat([self.attention(self.convs(x)), x], dim=1))
