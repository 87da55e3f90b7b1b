# SPDX-License-Identifier: Apache-2.0
"""What the baselines share: the arguments they refuse, the convolutions of VGG, and He's initial weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from monai.networks.blocks import Convolution
from torch import nn

VGG16_CONVOLUTIONS = (2, 2, 3, 3, 3)


def check_arguments(
    name: str,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    features: Sequence[int],
    dropout: float,
    stages: int | None = 5,
) -> None:
    """Refuse what no baseline can be built from.

    Args:
        name: name of the network, for the message.
        spatial_dims: must be 2 or 3.
        in_channels: must be positive.
        out_channels: must be positive.
        features: must hold ``stages`` positive widths.
        dropout: must be a probability below 1.
        stages: widths that the network takes; None: two or more.

    Raises:
        ValueError: at the first argument that is out of range; the message names value and remedy.
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"{name}: spatial_dims={spatial_dims}; give 2 or 3.")
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"{name}: in_channels={in_channels}, out_channels={out_channels}; both must be 1 or more.")
    if stages is None and len(features) < 2:
        raise ValueError(f"{name}: features={tuple(features)}; give the widths of two or more stages.")
    if stages is not None and len(features) != stages:
        raise ValueError(f"{name}: features={tuple(features)}; give {stages} widths.")
    if min(features) < 1:
        raise ValueError(f"{name}: features={tuple(features)}; every width must be 1 or more.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{name}: dropout={dropout}; give a probability of at least 0 and below 1.")


def convolution_stage(
    spatial_dims: int,
    widths: Sequence[int],
    act: str | tuple,
    norm: str | tuple | None,
    dropout: float,
) -> nn.Sequential:
    """3x3 convolutions at one size, each with normalisation, dropout and activation.

    Args:
        spatial_dims: 2 or 3.
        widths: channels of the input, then of the output of each convolution.
        act: activation after each convolution.
        norm: normalisation after each convolution; None gives them a bias instead.
        dropout: dropout probability after each convolution.

    Returns:
        A module that maps (B, widths[0], *size) to (B, widths[-1], *size).
    """
    return nn.Sequential(
        *(
            Convolution(
                spatial_dims, fewer, more, kernel_size=3, act=act, norm=norm, dropout=dropout, bias=norm is None
            )
            for fewer, more in itertools.pairwise(widths)
        )
    )


def start_from_he(network: nn.Module, negative_slope: float = 0.0) -> None:
    """Draw the weights of all convolutions after He et al. 2015 (doi:10.1109/ICCV.2015.123), with biases of zero.

    Args:
        network: changed in place.
        negative_slope: of the leaky ReLU that follows the convolutions; 0 for a ReLU.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
