# SPDX-License-Identifier: Apache-2.0
"""SegNet: the decoder puts values back where the encoder's pooling found them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from .common import VGG16_CONVOLUTIONS, check_arguments, convolution_stage, start_from_he
from .padding import crop_to, pad_to_multiple


def unpool(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Undo a pooling of two: every value goes to where its maximum was, all else is zero.

    PyTorch's ``max_unpool`` does the same and is refused under ``torch.use_deterministic_algorithms``, as it would have to decide
    between maxima that share a place. Windows that do not overlap share none, and a scatter is allowed.

    Args:
        x: (B, C, *size).
        indices: of the same shape, what ``MaxPool`` returned: places in the flattened map of twice the size.

    Returns:
        (B, C, *2 * size).
    """
    size = [2 * s for s in x.shape[2:]]
    places = 1
    for s in size:
        places *= s
    # Channels go last and come back as a view: no copy where the memory is channels-last already.
    values, to = x.movedim(1, -1).flatten(1, -2), indices.movedim(1, -1).flatten(1, -2)
    empty = torch.zeros([x.shape[0], places, x.shape[1]], dtype=x.dtype, device=x.device)
    last: list[int] = [x.shape[0]]
    last.extend(size)
    last.append(x.shape[1])
    return empty.scatter(1, to, values).reshape(last).movedim(-1, 1)


class SegNet(nn.Module):
    """SegNet of Badrinarayanan, Kendall, Cipolla 2017 (doi:10.1109/TPAMI.2016.2644615)::

        image -- 2 conv -- pool -- 2 conv -- pool -- 3 conv -- pool -- 3 conv -- pool -- 3 conv -- pool --|
                            :                 :                 :                 :                 :     |
        logits -- 2 conv - unpool - 2 conv - unpool - 3 conv - unpool - 3 conv - unpool - 3 conv - unpool-|

    The encoder has the thirteen convolutions of VGG16, the decoder is its mirror image and gets nothing from the encoder but the
    places of the maxima. Every convolution is 3x3 with batch normalisation and ReLU, but for the last, which gives the logits.
    Weights start as in the paper from He's initialisation; there are no weights of ImageNet.

    Any input size is taken: the image is padded inside to a multiple of 32 and the output cropped back.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of the five stages; VGG16's are the default.
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
        super().__init__()
        check_arguments("SegNet", spatial_dims, in_channels, out_channels, features, dropout)
        self.stride = 32
        before = [in_channels, *features[:-1]]
        self.encoder = nn.ModuleList(
            convolution_stage(spatial_dims, [before[i], *[features[i]] * n], act, norm, dropout)
            for i, n in enumerate(VGG16_CONVOLUTIONS)
        )
        self.pools = nn.ModuleList(
            Pool[Pool.MAX, spatial_dims](kernel_size=2, stride=2, return_indices=True) for _ in VGG16_CONVOLUTIONS
        )
        # Deepest first. The last convolution of a stage narrows the map to the width of the next; the one of the first stage
        # is the head.
        decoder = [
            convolution_stage(spatial_dims, [*[features[i]] * VGG16_CONVOLUTIONS[i], before[i]], act, norm, dropout)
            for i in range(len(features) - 1, 0, -1)
        ]
        decoder.append(convolution_stage(spatial_dims, [features[0]] * VGG16_CONVOLUTIONS[0], act, norm, dropout))
        self.decoder = nn.ModuleList(decoder)
        self.head = Conv[Conv.CONV, spatial_dims](features[0], out_channels, kernel_size=3, padding=1)
        start_from_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is (H, W) or (H, W, D)."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.stride)
        places: list[torch.Tensor] = []
        for stage, pool in zip(self.encoder, self.pools):
            x, indices = pool(stage(x))
            places.append(indices)
        for stage in self.decoder:
            x = stage(unpool(x, places.pop()))
        return crop_to(self.head(x), size)
