# SPDX-License-Identifier: Apache-2.0
"""The segmentation network of Spine-GAN: an autoencoder of atrous convolutions with an LSTM over local regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv, Pool
from torch import nn
from torch.nn import functional


class LocalRecurrence(nn.Module):
    """LSTM over the regions of a feature map, and the map added to it::

        x --+-- average of each region -- LSTM, region by region -- transposed conv per factor 2 --(+)--> out
            |---------------------------------------------------------------------------------------|

    From the authors' code: regions of 4x4, one LSTM that reads them in one direction and in memory order (row by row), as many
    hidden units as channels, forget gates that start open, and the sum. Ours: no peepholes, which ``nn.LSTM`` does not have.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the input and output, hidden units of the LSTM.
        region: edge of a region, a power of two.
        act: activation after each transposed convolution.
        norm: normalisation after each transposed convolution.

    Raises:
        ValueError: when ``region`` is no power of two.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        region: int = 4,
        act: str | tuple = "relu",
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        if region < 2 or region & (region - 1):
            raise ValueError(f"LocalRecurrence: region={region}; give a power of two, at least 2.")
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
                    spatial_dims,
                    channels,
                    channels,
                    2,
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
        # Channels go last and come back as views: no copy where the memory is channels-last already.
        regions = self.pool(x).movedim(1, -1)
        states = self.lstm(regions.flatten(1, -2))[0]
        return x + self.expand(states.reshape(regions.shape).movedim(-1, 1))


class SpineGANSegmenter(nn.Module):
    """Segmentation network of Spine-GAN (Han et al. 2018, doi:10.1016/j.media.2018.08.005)::

        image -- (7x7 conv) x 2 -- pool -- (3x3 conv) x 2 -- pool -- atrous convs -- LSTM -- (transposed conv) x 2 -- 1x1 -- 1x1

    The abstract states an autoencoder of atrous convolutions, a long short-term memory that models how structures relate in space,
    and a discriminating network; the text behind it was not open to us. Layers, kernels, rates, the LSTM's regions and the order
    convolution, batch normalisation, ReLU are those of the authors' code (github.com/zhyhan/Spine-GAN, TensorFlow), read for its
    facts; so is that no path leads around the bottleneck. Ours: half its widths in the shipped config, no bias before a
    normalisation, PyTorch's initialisation, dropout, 3D, and any input size: the image is padded inside to a multiple of
    ``stride`` and the output cropped back. The output holds logits, not probabilities.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels at full, half and quarter size; the default is that of the authors' code.
        rates: dilation of each atrous convolution.
        region: edge, in positions of the quarter-size map, of the regions that the LSTM reads: 2, 4, 8, ...
        act: activation.
        norm: normalisation.
        dropout: dropout probability after each atrous convolution and before the last layer.

    Raises:
        ValueError: when an argument is out of range; the message names value and remedy.
    """

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
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"SpineGANSegmenter: spatial_dims={spatial_dims}; give 2 or 3.")
        if min(in_channels, out_channels) < 1:
            raise ValueError(
                f"SpineGANSegmenter: in_channels={in_channels}, out_channels={out_channels}; both must be 1 or more."
            )
        if len(features) != 3 or min(features) < 1:
            raise ValueError(f"SpineGANSegmenter: features={tuple(features)}; give three positive widths.")
        if not rates or min(rates) < 1:
            raise ValueError(f"SpineGANSegmenter: rates={tuple(rates)}; give one or more integers >= 1.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"SpineGANSegmenter: dropout={dropout}; give a probability of at least 0 and below 1.")
        self.spatial_dims = spatial_dims
        full, half, quarter = features
        shared = {"act": act, "norm": norm, "bias": False}

        def pool() -> nn.Module:
            return Pool[Pool.MAX, spatial_dims](kernel_size=2, stride=2)

        self.encoder = nn.Sequential(
            Convolution(spatial_dims, in_channels, full, kernel_size=7, **shared),
            Convolution(spatial_dims, full, full, kernel_size=7, **shared),
            pool(),
            Convolution(spatial_dims, full, half, kernel_size=3, **shared),
            Convolution(spatial_dims, half, half, kernel_size=3, **shared),
            pool(),
        )
        self.atrous = nn.Sequential(
            *(
                Convolution(
                    spatial_dims,
                    quarter if i else half,
                    quarter,
                    kernel_size=3,
                    dilation=rate,
                    dropout=dropout,
                    **shared,
                )
                for i, rate in enumerate(rates)
            )
        )
        self.recurrence = LocalRecurrence(spatial_dims, quarter, region, act=act, norm=norm)
        self.stride = 4 * region
        self.decoder = nn.Sequential(
            *(
                Convolution(spatial_dims, quarter, quarter, 2, kernel_size=3, is_transposed=True, **shared)
                for _ in range(2)
            ),
            Convolution(spatial_dims, quarter, half, kernel_size=1, **shared),
        )
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.head = Conv[Conv.CONV, spatial_dims](half, out_channels, kernel_size=1)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is (H, W) or (H, W, D)."""
        size = x.shape[2:]
        pads: list[int] = []
        for axis in range(self.spatial_dims - 1, -1, -1):
            pads.extend([0, -size[axis] % self.stride])
        if max(pads) > 0:
            x = functional.pad(x, pads, mode="replicate")
        x = self.recurrence(self.atrous(self.encoder(x)))
        x = self.head(self.dropout(self.decoder(x)))
        x = x[:, :, : size[0], : size[1]]
        if self.spatial_dims == 3:
            x = x[..., : size[2]]
        return x
