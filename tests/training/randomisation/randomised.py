# SPDX-License-Identifier: Apache-2.0
"""Batches with known content for the tests of the randomisation."""

from __future__ import annotations

import torch
from scripts.training.randomisation.acquisition import RandCtNoise, RandDropChannels, RandGamma, RandThickSlices
from scripts.training.randomisation.batch import BatchRandomisation
from scripts.training.randomisation.field_of_view import RandFieldOfView
from scripts.training.randomisation.geometry import RandBatchAffine
from scripts.training.randomisation.resolution import RandSharpness, RandThickInPlane
from scripts.training.randomisation.texture import RandBiasField, RandBoneTexture
from scripts.training.randomisation.tissue import RandBoneDensity, RandSoftTissue
from scripts.training.randomisation.transform import RandBatchTransform

LOW, HIGH = -2000.0, 3000.0  # a window so wide that nothing is clipped
CLASSES = (
    RandBatchAffine, RandBoneDensity, RandSoftTissue, RandBiasField, RandBoneTexture, RandSharpness, RandThickInPlane,
    RandThickSlices, RandDropChannels, RandCtNoise, RandGamma, RandFieldOfView,
)  # fmt: skip


def scaled(hu: torch.Tensor) -> torch.Tensor:
    """Return HU as the input of a randomisation with the wide window."""
    return (hu - LOW) / (HIGH - LOW)


def change(transform: RandBatchTransform, hu: torch.Tensor, first_seed: int = 0) -> torch.Tensor:
    """Return an image (B, C, H, W) in HU after one transform, in HU; seeds count from ``first_seed``."""
    randomisation = BatchRandomisation([transform], hu_window=(LOW, HIGH), outside=-10)
    seeds = range(first_seed, first_seed + len(hu))
    return randomisation.randomise(scaled(hu), torch.zeros(len(hu), 1, *hu.shape[2:]), seeds)[0] * (HIGH - LOW) + LOW


def constant(hu: float, count: int = 400, channels: int = 1, size: tuple[int, int] = (6, 6)) -> torch.Tensor:
    """Return images of one value."""
    return torch.full((count, channels, *size), hu)


def slices(count: int = 4, channels: int = 5, size: tuple[int, int] = (48, 56)) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scaled random images with a blank first neighbour and a blank corner, and labels of codes 0 to 6."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, channels, *size, generator=generator) * 1.25 - 0.08
    image[:, :, :9, :11] = -1.0
    if channels > 1:
        image[:, 0] = -1.0
    return image, torch.randint(0, 7, (count, 1, *size), generator=generator).float()
