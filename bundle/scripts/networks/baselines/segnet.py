# SPDX-License-Identifier: Apache-2.0
"""SegNet: unpooling in the decoder at the positions of the maxima in the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from .base import BaselineNetwork
from .vgg16 import VGG16_CONVOLUTIONS, convolution_stage, vgg16_stages


def unpool(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Inverse of a max-pooling of two: each value at the position of its maximum, zero elsewhere.

    Equal to PyTorch's ``max_unpool``, which ``torch.use_deterministic_algorithms`` refuses because windows could overlap. These do
    not, so that a scatter, which it accepts, is deterministic.

    Args:
        x: (B, C, *size).
        indices: (B, C, *size) from ``MaxPool``: positions in the flattened map of twice the size.

    Returns:
        (B, C, *2 * size).
    """
    size = [2 * s for s in x.shape[2:]]
    num_positions = 1
    for s in size:
        num_positions *= s
    # Scatter with the channels last, and a view back: no copy of channels-last memory.
    values, positions = x.movedim(1, -1).flatten(1, -2), indices.movedim(1, -1).flatten(1, -2)
    zeros = torch.zeros([x.shape[0], num_positions, x.shape[1]], dtype=x.dtype, device=x.device)
    shape: list[int] = [x.shape[0]]
    shape.extend(size)
    shape.append(x.shape[1])
    return zeros.scatter(1, positions, values).reshape(shape).movedim(-1, 1)


class SegNet(BaselineNetwork):
    """SegNet of Badrinarayanan, Kendall, Cipolla 2017 (doi:10.1109/TPAMI.2016.2644615)::

        image -- 2 conv -- pool -- 2 conv -- pool -- 3 conv -- pool -- 3 conv -- pool -- 3 conv -- pool --|
                            :                 :                 :                 :                 :     |
        logits -- 2 conv - unpool - 2 conv - unpool - 3 conv - unpool - 3 conv - unpool - 3 conv - unpool-|

    The encoder has the thirteen convolutions of VGG16. The decoder is its mirror image and receives the positions of the maxima
    from the encoder, no features. Every convolution is 3x3 with batch normalisation and ReLU, except the last, whose output are the
    logits. Weights have He initialisation, as in the paper; none are pretrained on ImageNet.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes of the softmax, background included.
        features: channels of the five stages; the default is VGG16.
        act: activation after each convolution.
        norm: normalisation after each convolution.
        dropout: dropout probability after each convolution; the paper has none.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (64, 128, 256, 512, 512),
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, features, dropout, stride=32)
        self.encoder = nn.ModuleList(vgg16_stages(spatial_dims, in_channels, features, act, norm, dropout))
        self.pools = nn.ModuleList(
            Pool[Pool.MAX, spatial_dims](kernel_size=2, stride=2, return_indices=True) for _ in VGG16_CONVOLUTIONS
        )
        # Deepest first. The last convolution of a stage has the width of the next stage; of the first stage it is the head.
        widths = [[features[i]] * VGG16_CONVOLUTIONS[i] + [features[i - 1]] for i in range(len(features) - 1, 0, -1)]
        widths.append([features[0]] * VGG16_CONVOLUTIONS[0])
        self.decoder = nn.ModuleList(convolution_stage(spatial_dims, w, act, norm, dropout) for w in widths)
        self.head = Conv[Conv.CONV, spatial_dims](in_channels=features[0], out_channels=out_channels, kernel_size=3, padding=1)
        self._initialize_he()

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is a multiple of the stride."""
        positions: list[torch.Tensor] = []
        for stage, pool in zip(self.encoder, self.pools):
            x, indices = pool(stage(x))
            positions.append(indices)
        for stage in self.decoder:
            x = stage(unpool(x, positions.pop()))
        return self.head(x)
