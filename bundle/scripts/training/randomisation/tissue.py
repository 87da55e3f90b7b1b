# SPDX-License-Identifier: Apache-2.0
"""Random density of bone and attenuation of soft tissue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .transform import RandImageTransform, RandomBatch

BONE_HU, BONE_WIDTH_HU = 180.0, 60.0  # half of the soft bone mask, and the width of its transition
MARROW_HU = 100.0  # fixed point of the density: below it are marrow fat and soft tissue
SOFT_HU = (-300.0, 150.0)  # range that is stretched: fat to enhanced vessels


def bone_mask(image: torch.Tensor) -> torch.Tensor:
    """Soft mask of bone, 0 to 1, of an image in HU: half at 180 HU, 0.21 at 100, 0.79 at 260."""
    return torch.sigmoid((image - BONE_HU).div_(BONE_WIDTH_HU))


class RandBoneDensity(RandImageTransform):
    """Multiply the attenuation of bone above 100 HU, as of osteoporotic or sclerotic bone.

    Args:
        prob: probability that a sample is changed.
        factor: smallest and largest factor.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.6, factor: Sequence[float] = (0.7, 1.35)) -> None:
        super().__init__(prob)
        self.factor = self.interval("factor", factor, 0.0)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the factor."""
        return (draw.uniform(*self.factor),)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with its bone scaled."""
        (factor,) = columns
        change = bone_mask(batch.image).mul_(batch.image - MARROW_HU)
        return batch.image.addcmul_(change, factor - 1)


class RandSoftTissue(RandImageTransform):
    """Shift and stretch the attenuation outside bone: contrast medium, fat, and beam energy.

    Args:
        prob: probability that a sample is changed.
        shift: largest shift, HU.
        stretch: largest share by which the attenuation of -300 to 150 HU is stretched or shrunk about 0 HU.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.5, shift: float = 60.0, stretch: float = 0.4) -> None:
        super().__init__(prob)
        self.shift, self.stretch = self.at_least("shift", shift), self.at_least("stretch", stretch)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw shift and stretch."""
        return draw.uniform(-self.shift, self.shift), draw.uniform(-self.stretch, self.stretch)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with its soft tissue shifted and stretched."""
        shift, stretch = columns
        change = batch.image.clamp(*SOFT_HU).mul_(stretch).add_(shift)
        return batch.image.addcmul_(change, 1 - bone_mask(batch.image))
