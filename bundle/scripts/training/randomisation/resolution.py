# SPDX-License-Identifier: Apache-2.0
"""Random resolution in the plane: kernel of the reconstruction, thick slices across the plane."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch

from .transform import RandImageTransform, RandomBatch


def neighbourhood_sum(image: torch.Tensor) -> torch.Tensor:
    """Sum over 3 x 3 voxels of an image (B, C, H, W), voxels beyond the border 0; on CPUs in half the time of ``avg_pool2d``."""
    for dim in (2, 3):
        total, size = image.clone(), image.shape[dim]
        total.narrow(dim, 1, size - 1).add_(image.narrow(dim, 0, size - 1))
        total.narrow(dim, 0, size - 1).add_(image.narrow(dim, 1, size - 1))
        image = total
    return image


class RandSharpness(RandImageTransform):
    """Blur or sharpen by the difference from the mean of 3 x 3 voxels, as of smooth and sharp kernels.

    Args:
        prob: probability that a sample is changed.
        amount: largest share of the difference that is subtracted (blur) or added (sharpening).

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.5, amount: float = 0.9) -> None:
        super().__init__(prob)
        self.amount = self.at_least("amount", amount)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the amount, negative for blur."""
        return (draw.uniform(-self.amount, self.amount),)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the blurred or sharpened image; voxels outside the scan take no part in the means."""
        image = batch.image.masked_fill_(batch.outside, 0)
        count = neighbourhood_sum((~batch.outside).to(image.dtype)).clamp_(min=1)
        mean = neighbourhood_sum(image).div_(count)
        return image.addcmul_(mean.sub_(image), columns[0], value=-1)


class RandThickInPlane(RandImageTransform):
    """Average along one axis of the plane, as of axial or coronal slices of up to 5 mm in a sagittal plane.

    The mean is a box of a width that need not be whole: the voxels at its ends count in part.

    Args:
        prob: probability that a sample is changed.
        voxels: smallest and largest width of the box, voxels of at least 1.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.25, voxels: Sequence[float] = (1.5, 3.5)) -> None:
        super().__init__(prob)
        self.voxels = self.interval("voxels", voxels, 1.0)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the width and the axis, 0 or 1."""
        return draw.uniform(*self.voxels), float(draw.integers(2))

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image averaged along one axis; voxels outside the scan take no part."""
        width, axis = columns
        reach = ceil((self.voxels[1] - 1) / 2)
        # Weights (B, 2 * reach + 1) of a box centred on a voxel: the overlap of every voxel with it.
        distance = torch.arange(-reach, reach + 1, device=batch.image.device, dtype=batch.image.dtype).abs()
        box = (width.flatten()[:, None] / 2 - distance + 0.5).clamp_(0, 1)
        box[:, reach] = 1
        identity = (distance == 0).to(box)[None]
        along = axis.flatten()[:, None] > 0
        inside = (~batch.outside).to(batch.image.dtype)
        image = batch.image.masked_fill_(batch.outside, 0)
        for dim, taps in ((2, torch.where(along, identity, box)), (3, torch.where(along, box, identity))):
            image, inside = (self.mean(value, taps, dim) for value in (image, inside))
        return image.div_(inside.clamp_(min=1e-3))

    @staticmethod
    def mean(image: torch.Tensor, taps: torch.Tensor, dim: int) -> torch.Tensor:
        """Sum of the neighbours along an axis with weights (B, T), voxels beyond the border 0."""
        reach, size = taps.shape[1] // 2, image.shape[dim]
        total = torch.zeros_like(image)
        for tap in range(taps.shape[1]):
            offset = tap - reach
            if abs(offset) < size:
                length, start = size - abs(offset), max(offset, 0)
                total.narrow(dim, start - offset, length).addcmul_(image.narrow(dim, start, length), taps[:, tap, None, None, None])
        return total
