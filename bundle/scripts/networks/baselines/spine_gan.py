# SPDX-License-Identifier: Apache-2.0
"""Segmentation network of Spine-GAN: an autoencoder of atrous convolutions with an LSTM over local regions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from .base import BaselineNetwork


class LocalRecurrence(nn.Module):
    """LSTM over the regions of a feature map, with a residual path::

        x --+-- average of each region -- LSTM, region by region -- transposed conv per factor 2 --(+)--> out
            |---------------------------------------------------------------------------------------|

    From the authors' code: regions of 4x4, a unidirectional LSTM over them in memory order (row by row), as many hidden units as
    channels, forget gates with a bias of one, and the sum. Ours: no peepholes, which ``nn.LSTM`` does not have.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output, hidden units of the LSTM.
        region: edge of a region, a power of two.
        act: activation after each transposed convolution.
        norm: normalisation after each transposed convolution.

    Raises:
        ValueError: when ``region`` is not a power of two.
    """

    def __init__(
        self, spatial_dims: int, channels: int, region: int = 4, act: str | tuple = "relu", norm: str | tuple = "batch"
    ) -> None:
        super().__init__()
        if region < 2 or region & (region - 1):
            raise ValueError(f"LocalRecurrence: region={region}; must be a power of two, at least 2.")
        self.pool = Pool[Pool.AVG, spatial_dims](kernel_size=region, stride=region)
        self.lstm = nn.LSTM(channels, channels, batch_first=True)
        with torch.no_grad():
            for name, bias in self.lstm.named_parameters():
                if name.startswith("bias"):
                    bias.zero_()
            self.lstm.bias_ih_l0[channels : 2 * channels].fill_(1.0)
        self.expand = nn.Sequential(
            *(
                Convolution(
                    spatial_dims=spatial_dims,
                    in_channels=channels,
                    out_channels=channels,
                    strides=2,
                    kernel_size=3,
                    act=act,
                    norm=norm,
                    bias=False,
                    is_transposed=True,
                )
                for _ in range(region.bit_length() - 1)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, *size) to the same shape; ``size`` is a multiple of ``region``."""
        # LSTM with the channels last, and a view back: no copy of channels-last memory.
        regions = self.pool(x).movedim(1, -1)
        states = self.lstm(regions.flatten(1, -2))[0]
        return x + self.expand(states.reshape(regions.shape).movedim(-1, 1))


class SpineGANSegmenter(BaselineNetwork):
    """Segmentation network of Spine-GAN (Han et al. 2018, doi:10.1016/j.media.2018.08.005)::

        image -- (7x7 conv) x 2 -- pool -- (3x3 conv) x 2 -- pool -- atrous convs -- LSTM -- (transposed conv) x 2 -- 1x1 -- 1x1

    The abstract states an autoencoder of atrous convolutions, a long short-term memory that models spatial relations between
    structures, and a discriminating network; the full text was not available to us. Layers, kernels, rates, the regions of the LSTM
    and the order convolution, batch normalisation, ReLU are those of the authors' code (github.com/zhyhan/Spine-GAN, TensorFlow),
    used as a specification; there, too, no path leads around the bottleneck. Ours: half its widths in the shipped config, no bias
    before a normalisation, PyTorch's default initialisation, dropout, and 3D.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes of the softmax, background included.
        features: channels at full, half and quarter resolution; the default is that of the authors' code.
        rates: dilation of each atrous convolution.
        region: edge of the LSTM's regions in positions of the map at quarter resolution: 2, 4, 8, ...
        act: activation.
        norm: normalisation.
        dropout: dropout probability after each atrous convolution and before the last layer.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

    num_stages = 3

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 64, 128),
        rates: Sequence[int] = (2, 4, 8, 16),
        region: int = 4,
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, features, dropout, stride=4 * region)
        self._require(min(rates, default=0) >= 1, "rates", tuple(rates), "be one or more integers >= 1")
        full, half, quarter = features
        conv = partial(Convolution, spatial_dims=spatial_dims, act=act, norm=norm, bias=False)
        pool = partial(Pool[Pool.MAX, spatial_dims], kernel_size=2, stride=2)
        self.encoder = nn.Sequential(
            conv(in_channels=in_channels, out_channels=full, kernel_size=7),
            conv(in_channels=full, out_channels=full, kernel_size=7),
            pool(),
            conv(in_channels=full, out_channels=half, kernel_size=3),
            conv(in_channels=half, out_channels=half, kernel_size=3),
            pool(),
        )
        self.atrous = nn.Sequential(
            *(
                conv(in_channels=quarter if i else half, out_channels=quarter, kernel_size=3, dilation=rate, dropout=dropout)
                for i, rate in enumerate(rates)
            )
        )
        self.recurrence = LocalRecurrence(spatial_dims, quarter, region=region, act=act, norm=norm)
        self.decoder = nn.Sequential(
            *(conv(in_channels=quarter, out_channels=quarter, strides=2, kernel_size=3, is_transposed=True) for _ in range(2)),
            conv(in_channels=quarter, out_channels=half, kernel_size=1),
        )
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = Conv[Conv.CONV, spatial_dims](in_channels=half, out_channels=out_channels, kernel_size=1)
        nn.init.zeros_(self.head.bias)

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is a multiple of the stride."""
        x = self.recurrence(self.atrous(self.encoder(x)))
        return self.head(self.dropout(self.decoder(x)))
