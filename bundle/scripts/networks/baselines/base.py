# SPDX-License-Identifier: Apache-2.0
"""Base class of the baselines: argument checks, images of any size, He initialisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..padding import crop_to, pad_to_multiple


class BaselineNetwork(nn.Module):
    """Network whose input may have any size: it is padded to a multiple of the stride and the output is cropped.

    Subclasses implement ``segment`` for images of a padded size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the logits.
        features: widths of the stages.
        dropout: dropout probability.
        stride: size of the image divided by the size of the coarsest map.
        min_multiples: smallest padded size, in strides; 2 where a normalisation runs on the coarsest map.

    Raises:
        ValueError: when an argument is out of range; the message names network, value and remedy.
    """

    num_stages = 5
    """Number of widths in ``features``; at least so many with ``more_stages``."""
    more_stages = False

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        dropout: float,
        stride: int,
        min_multiples: int = 1,
    ) -> None:
        super().__init__()
        self._require(spatial_dims in (2, 3), "spatial_dims", spatial_dims, "be 2 or 3")
        self._require(in_channels >= 1, "in_channels", in_channels, "be 1 or more")
        self._require(out_channels >= 1, "out_channels", out_channels, "be 1 or more")
        widths = tuple(features)
        fits = len(widths) == self.num_stages or (self.more_stages and len(widths) > self.num_stages)
        count = f"{self.num_stages}{' or more' if self.more_stages else ''}"
        self._require(fits, "features", widths, f"have {count} widths")
        self._require(min(widths) >= 1, "features", widths, "have widths of 1 or more")
        self._require(0.0 <= dropout < 1.0, "dropout", dropout, "be a probability of at least 0 and below 1")
        self.spatial_dims, self.stride, self.min_multiples = spatial_dims, stride, min_multiples

    def _require(self, valid: bool, argument: str, value: object, condition: str) -> None:
        """Raise a ValueError with the condition that an argument must meet, unless it is valid."""
        if not valid:
            raise ValueError(f"{type(self).__name__}: {argument}={value!r}; must {condition}.")

    def _initialize_he(self, negative_slope: float = 0.0) -> None:
        """Initialise all convolutions after He et al. 2015 (doi:10.1109/ICCV.2015.123), with zero bias.

        Args:
            negative_slope: negative slope of the leaky ReLU that follows the convolutions; 0 for a ReLU.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, a=negative_slope)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def segment(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is a multiple of the stride."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size); ``size`` is (H, W) or (H, W, D)."""
        padded = pad_to_multiple(x, self.stride, self.min_multiples)
        return crop_to(self.segment(padded), x.shape[2:])
