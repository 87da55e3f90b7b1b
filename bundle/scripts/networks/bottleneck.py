# SPDX-License-Identifier: Apache-2.0
"""Segmentation decoder: initial block, three bottleneck encoders, two bottleneck decoders, transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional

from .projection import INTERPOLATION
from .separable import SeparableConvolution


class BottleneckDecoder(nn.Module):
    """Upsampling by two, 1x1 convolution and batch normalisation (Saeed et al. 2024, Fig. 9)::

        x -- 1x1 conv, BN -- linear upsampling x2 -- ReLU --> out

    A 1x1 convolution and linear interpolation commute, so the convolution runs first, on a quarter (2D) or an eighth (3D) of the
    positions.

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
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=1,
            act=None,
            norm=norm,
            bias=False,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *size) to (B, out_channels, *2 * size)."""
        x = functional.interpolate(self.project(x), scale_factor=2.0, mode=self.mode, align_corners=False)
        return functional.relu(x)


class SegmentationDecoder(nn.Module):
    """Decoder of Saeed et al. 2024, section "Segmentation Decoder Blocks"::

        x -- (3x3 conv, BN, ReLU) x 2 --+-- encoder x 3 -- decoder x 2 --(+)-- transposed conv, BN -- 1x1 --> out
                                        |---------- 1x1 shortcut ---------|

    The strides, the activations and the shortcut around the bottleneck are not stated in the paper. The shortcut is added where the
    decoder is back at the size of ``x``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input and of the bottleneck.
        hidden_channels: channels of the last two layers, at full resolution.
        out_channels: channels of the output logits.
        in_stride: size of the image divided by the size of the input.
        encoder_strides: strides of the three bottleneck encoders.
        transposed_stride: stride of the transposed convolution.
        shortcut: whether there is a shortcut around the bottleneck.
        act: activation after each convolution.
        norm: normalisation after each convolution.
        dropout: dropout probability before the last convolution.

    Raises:
        ValueError: when the output would not have the size of the image.
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
            raise ValueError(f"SegmentationDecoder: encoder_strides={tuple(encoder_strides)}; must be three values of 1 or 2.")
        reduction = encoder_strides[0] * encoder_strides[1] * encoder_strides[2]
        if transposed_stride < 1 or in_stride * reduction != 4 * transposed_stride:
            raise ValueError(
                f"SegmentationDecoder: in_stride={in_stride} times encoder_strides={tuple(encoder_strides)} is "
                f"{in_stride * reduction}; must be equal to 4 * transposed_stride={4 * transposed_stride}, the upsampling of the "
                "decoders and the transposed convolution."
            )
        conv = partial(Convolution, spatial_dims=spatial_dims, norm=norm, bias=False)
        self.initial = nn.Sequential(
            *(conv(in_channels=in_channels, out_channels=in_channels, kernel_size=3, act=act) for _ in range(2))
        )
        self.encoders = nn.Sequential(
            *(
                SeparableConvolution(
                    spatial_dims=spatial_dims, in_channels=in_channels, out_channels=in_channels, stride=stride, act=act, norm=norm
                )
                for stride in encoder_strides
            )
        )
        self.decoders = nn.ModuleList(
            BottleneckDecoder(spatial_dims=spatial_dims, in_channels=in_channels, out_channels=width, norm=norm)
            for width in (in_channels, hidden_channels)
        )
        # Number of decoders after which the map has the size of the input again; -1: the shortcut joins nowhere.
        self.join_after = {1: 0, 2: 1, 4: 2}.get(reduction, -1) if shortcut else -1
        self.shortcut: nn.Module = nn.Identity()
        if self.join_after >= 0:
            width = hidden_channels if self.join_after == 2 else in_channels
            self.shortcut = conv(in_channels=in_channels, out_channels=width, kernel_size=1, act=None)
        self.transposed = conv(
            in_channels=hidden_channels,
            out_channels=hidden_channels,
            strides=transposed_stride,
            kernel_size=3,
            act=act,
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
