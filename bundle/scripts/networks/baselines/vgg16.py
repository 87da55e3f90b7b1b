# SPDX-License-Identifier: Apache-2.0
"""Convolutional stages of VGG16 (Simonyan, Zisserman 2015, arXiv:1409.1556), the encoder of SegNet and FCN."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from monai.networks.blocks import Convolution
from torch import nn

VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)


def convolution_stage(
    spatial_dims: int, widths: Sequence[int], act: str | tuple, norm: str | tuple | None, dropout: float = 0.0
) -> nn.Sequential:
    """3x3 convolutions at one size, each with normalisation, dropout and activation.

    Args:
        spatial_dims: 2 or 3.
        widths: channels of the input, then of the output of each convolution.
        act: activation after each convolution.
        norm: normalisation after each convolution; None: they have a bias instead.
        dropout: dropout probability after each convolution.

    Returns:
        A module that maps (B, widths[0], *size) to (B, widths[-1], *size).
    """
    return nn.Sequential(
        *(
            Convolution(
                spatial_dims=spatial_dims,
                in_channels=in_width,
                out_channels=out_width,
                kernel_size=3,
                act=act,
                norm=norm,
                dropout=dropout,
                bias=norm is None,
            )
            for in_width, out_width in itertools.pairwise(widths)
        )
    )


def vgg16_stages(
    spatial_dims: int, in_channels: int, features: Sequence[int], act: str | tuple, norm: str | tuple | None, dropout: float = 0.0
) -> list[nn.Sequential]:
    """The five stages of VGG16 without their pooling.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        features: channels of the stages.
        act: activation after each convolution.
        norm: normalisation after each convolution; None: they have a bias instead.
        dropout: dropout probability after each convolution.

    Returns:
        Modules of which number i maps (B, features[i - 1], *size) to (B, features[i], *size).
    """
    inputs = [in_channels, *features[:-1]]
    return [
        convolution_stage(spatial_dims, [in_width, *[width] * convolutions], act=act, norm=norm, dropout=dropout)
        for in_width, width, convolutions in zip(inputs, features, VGG16_CONVOLUTIONS, strict=True)
    ]
