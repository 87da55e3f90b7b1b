# SPDX-License-Identifier: Apache-2.0
"""The decoder of the paper: initial block, three bottleneck encoders, two bottleneck decoders, transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional

from .projection import INTERPOLATION
from .separable import SeparableConvolution


class BottleneckDecoder(nn.Module):
    """Upsampling by two, 1x1 convolution and batch normalisation (Saeed et al. 2024, Fig. 9).

    A 1x1 convolution and linear interpolation commute, so the convolution runs first, at a quarter of the positions.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: normalisation after the convolution.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, norm: str | tuple = "batch") -> None:
        super().__init__()
        self.mode = INTERPOLATION[spatial_dims]
        self.project = Convolution(
            spatial_dims, in_channels, out_channels, kernel_size=1, act=None, norm=norm, bias=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *2 * size)."""
        x = functional.interpolate(self.project(x), scale_factor=2.0, mode=self.mode, align_corners=False)
        return functional.relu(x)


class SegmentationDecoder(nn.Module):
    """Decoder of Saeed et al. 2024, section "Segmentation Decoder Blocks"::

        x -- (3x3 conv, BN, ReLU) x 2 --+-- encoder x 3 -- decoder x 2 --(+)-- transposed conv, BN -- 1x1 --> out
                                        |---------- 1x1 shortcut ---------|

    The strides, the activations and the shortcut around the bottleneck are not stated in the paper. The shortcut joins where the
    decoder is back at the size of ``x``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input, kept through the bottleneck.
        hidden_channels: channels of the last two layers, at full size.
        out_channels: channels of the output logits.
        in_stride: size of the image divided by the size of the input.
        encoder_strides: strides of the three bottleneck encoders.
        transposed_stride: stride of the transposed convolution.
        shortcut: False leaves the shortcut out.
        act: activation after each convolution.
        norm: normalisation after each convolution.
        dropout: dropout probability before the last convolution.

    Raises:
        ValueError: when the strides do not bring the output to the size of the image.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        in_stride: int = 2,
        encoder_strides: Sequence[int] = (2, 2, 1),
        transposed_stride: int = 2,
        shortcut: bool = True,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(encoder_strides) != 3 or any(s not in (1, 2) for s in encoder_strides):
            raise ValueError(
                f"SegmentationDecoder: encoder_strides={tuple(encoder_strides)}; give three values, each 1 or 2."
            )
        reduction = encoder_strides[0] * encoder_strides[1] * encoder_strides[2]
        if transposed_stride < 1 or in_stride * reduction != 4 * transposed_stride:
            raise ValueError(
                f"SegmentationDecoder: in_stride={in_stride} times encoder_strides={tuple(encoder_strides)} is "
                f"{in_stride * reduction}, but the two decoders and transposed_stride={transposed_stride} bring back "
                f"{4 * transposed_stride}; choose strides for which both are equal."
            )
        self.initial = nn.Sequential(
            *(
                Convolution(spatial_dims, in_channels, in_channels, kernel_size=3, act=act, norm=norm, bias=False)
                for _ in range(2)
            )
        )
        self.encoders = nn.Sequential(
            *(
                SeparableConvolution(spatial_dims, in_channels, in_channels, s, act=act, norm=norm)
                for s in encoder_strides
            )
        )
        self.decoders = nn.ModuleList(
            [
                BottleneckDecoder(spatial_dims, in_channels, in_channels, norm=norm),
                BottleneckDecoder(spatial_dims, in_channels, hidden_channels, norm=norm),
            ]
        )
        # The number of decoders after which the map has the size of the input again; more than two means never.
        self.join_after = {1: 0, 2: 1, 4: 2}.get(reduction, -1) if shortcut else -1
        joined = hidden_channels if self.join_after == 2 else in_channels
        self.shortcut: nn.Module = nn.Identity()
        if self.join_after >= 0:
            self.shortcut = Convolution(
                spatial_dims, in_channels, joined, kernel_size=1, act=None, norm=norm, bias=False
            )
        self.transposed = Convolution(
            spatial_dims,
            hidden_channels,
            hidden_channels,
            strides=transposed_stride,
            kernel_size=3,
            act=act,
            norm=norm,
            bias=False,
            is_transposed=True,
        )
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = Conv[Conv.CONV, spatial_dims](hidden_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size / in_stride) to logits (B, out_channels, *size)."""
        x = self.initial(x)
        y = self.encoders(x)
        if self.join_after == 0:
            y = y + self.shortcut(x)
        for index, decoder in enumerate(self.decoders):
            y = decoder(y)
            if self.join_after == index + 1:
                y = y + self.shortcut(x)
        return self.head(self.dropout(self.transposed(y)))
