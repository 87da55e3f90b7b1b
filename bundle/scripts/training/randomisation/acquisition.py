# SPDX-License-Identifier: Apache-2.0
"""Random acquisition: noise, thick slices of the plane's neighbours, missing neighbours, display."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

import numpy as np
import torch

from .resolution import neighbourhood_sum
from .transform import RandImageTransform, RandomBatch


class RandCtNoise(RandImageTransform):
    """Add white noise, or noise correlated over 3 x 3 voxels as of a smooth kernel, of the same standard deviation.

    Args:
        hu: smallest and largest standard deviation, HU; its logarithm is uniform.
        correlated_prob: probability that the noise of a sample is correlated.
        prob: probability that a sample is changed.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, hu: Sequence[float] = (4.0, 90.0), correlated_prob: float = 0.5, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.hu = self.interval("hu", hu, 1e-3)
        self.correlated_prob = self.probability("correlated_prob", correlated_prob)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the standard deviation, HU, and the correlation, 1 or 0."""
        return exp(draw.uniform(log(self.hu[0]), log(self.hu[1]))), float(draw.random() < self.correlated_prob)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with noise."""
        std, correlated = columns
        height, width = batch.image.shape[2:]
        # A frame of one voxel, so that the sum of 3 x 3 has the same deviation at the border: 3 times that of one voxel.
        white = batch.gaussian(batch.image.shape[1], (height + 2, width + 2))
        noise = torch.where(correlated > 0, neighbourhood_sum(white).div_(3), white)
        return batch.image.addcmul_(noise[:, :, 1:-1, 1:-1], std)


class RandThickSlices(RandImageTransform):
    """Mix the channels with their mean, as of slices thicker than their distance.

    Args:
        prob: probability that a sample is changed.
        mix: largest share of the mean; that of a sample is uniform from 0.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.4, mix: float = 0.5) -> None:
        super().__init__(prob)
        self.mix = self.probability("mix", mix)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the share of the mean."""
        return (draw.uniform(0.0, self.mix),)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with mixed channels; slices outside the scan take no part."""
        count = (~batch.outside).sum(1, keepdim=True).clamp_(min=1)
        mean = batch.image.masked_fill(batch.outside, 0).sum(1, keepdim=True).div_(count)
        return batch.image.lerp_(mean, columns[0])


class RandDropChannels(RandImageTransform):
    """Replace neighbours by the centre slice, as of few slices or another spacing.

    Args:
        prob: probability that a sample is changed.
        channel_prob: probability that a neighbour of a changed sample is replaced.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.3, channel_prob: float = 0.3) -> None:
        super().__init__(prob)
        self.channel_prob = self.probability("channel_prob", channel_prob)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Nothing is drawn before the number of channels."""
        return (0.0,)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with channels replaced, and replace their mask."""
        channels = batch.image.shape[1]
        centre = channels // 2
        replaced = np.stack([draw.random(channels) < self.channel_prob for draw in batch.draws])
        replaced[:, centre] = False
        mask = torch.as_tensor(replaced).to(batch.image.device, non_blocking=True)[:, :, None, None]
        batch.outside = torch.where(mask, batch.outside[:, centre : centre + 1], batch.outside)
        return torch.where(mask, batch.image[:, centre : centre + 1], batch.image)


class RandGamma(RandImageTransform):
    """Raise the values of the window, 0 to 1, to a random power; values beyond the window are clipped, so place it last.

    Args:
        log_range: largest absolute logarithm of the exponent, which is uniform.
        prob: probability that a sample is changed.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, log_range: float = 0.35, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.log_range = self.at_least("log_range", log_range)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the exponent."""
        return (exp(draw.uniform(-self.log_range, self.log_range)),)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with the exponent applied within the window."""
        low, high = batch.hu_window
        return batch.image.sub_(low).div_(high - low).clamp_(0, 1).pow_(columns[0]).mul_(high - low).add_(low)
