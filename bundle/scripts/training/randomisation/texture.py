# SPDX-License-Identifier: Apache-2.0
"""Random smooth fields: bias of a slice, texture of bone."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from torch.nn import functional

from .tissue import bone_mask
from .transform import RandImageTransform, RandomBatch


class _RandField(RandImageTransform):
    """Random field of normal values at control points, joined by bicubic interpolation and equal in all channels.

    Args:
        prob: probability that a sample is changed.
        hu: largest standard deviation of the control points, HU; that of a sample is uniform from 0.
        spacing: distance of the control points, voxels.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float, hu: float, spacing: float) -> None:
        super().__init__(prob)
        self.hu, self.spacing = self.at_least("hu", hu), self.at_least("spacing", spacing, 1.0)

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the standard deviation of the control points, HU."""
        return (draw.uniform(0.0, self.hu),)

    def field(self, batch: RandomBatch, hu: torch.Tensor) -> torch.Tensor:
        """Draw the fields (B, 1, H, W) of the samples."""
        size = batch.image.shape[2:]
        points = batch.gaussian(1, [ceil(n / self.spacing) for n in size]) * hu
        return functional.interpolate(points, size=size, mode="bicubic", align_corners=False)


class RandBiasField(_RandField):
    """Add a smooth field: beam hardening, scatter, habitus.

    Args:
        prob: probability that a sample is changed.
        hu: largest standard deviation of the control points, HU.
        spacing: distance of the control points, voxels.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.5, hu: float = 50.0, spacing: float = 16.0) -> None:
        super().__init__(prob, hu, spacing)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with the field."""
        return batch.image.add_(self.field(batch, columns[0]))


class RandBoneTexture(_RandField):
    """Add a fine field to bone: trabeculae, sclerosis, islands.

    Args:
        prob: probability that a sample is changed.
        hu: largest standard deviation of the control points, HU.
        spacing: distance of the control points, voxels.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, prob: float = 0.5, hu: float = 60.0, spacing: float = 4.0) -> None:
        super().__init__(prob, hu, spacing)

    def change(self, batch: RandomBatch, *columns: torch.Tensor) -> torch.Tensor:
        """Return the image with the field in its bone."""
        return batch.image.addcmul_(bone_mask(batch.image), self.field(batch, columns[0]))
