# SPDX-License-Identifier: Apache-2.0
"""Random augmentation of whole batches on the device that trains, in place of one sample after another in the data loader."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.engines import default_prepare_batch
from monai.networks.layers import GaussianFilter
from monai.transforms import RandAffineGrid, Randomizable, Transform
from torch.nn import functional

SEED = "augmentation_seed"


class RandSeedd(Randomizable, Transform):
    """Give every sample the number that its augmentation on the device is drawn from.

    The data loader's own seeds decide it, so that it follows from seed, epoch, case and sample, however many workers there are,
    whatever the batch is and wherever a run was taken up again.

    Args:
        key: where the number is put, an integer.
    """

    def __init__(self, key: Hashable = SEED) -> None:
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the items with the number."""
        return {**data, self.key: int(self.R.randint(2**31 - 1))}


class DeviceAugmentation:
    """The trainer's ``prepare_batch``: move a batch to the device and augment it there.

    What is drawn for a sample has the distribution of MONAI's ``RandAffined``, ``RandGaussianSmoothd``, ``RandScaleIntensityd``,
    ``RandShiftIntensityd`` and ``RandGaussianNoised``, one after the other. Numbers of a sample are drawn on the CPU, noise on
    the device; equal seeds give equal samples on one type of device.

    Args:
        affine_prob: share of samples that are turned, scaled and sheared.
        rotate_range: greatest angle, radians; in 3D about the first axis.
        scale_range: greatest change of the size along every axis, 0.1 for 10 %.
        shear_range: as MONAI's.
        smooth_prob: share of samples that are smoothed.
        smooth_sigma: smallest and greatest standard deviation, voxels.
        scale_prob: share of samples whose values are multiplied by 1 + f.
        scale_factor: greatest f.
        shift_prob: share of samples whose values are shifted.
        shift_offset: greatest shift.
        noise_prob: share of samples with noise.
        noise_std: greatest standard deviation.
        image_key: images (B, C, *size).
        label_key: labels (B, 1, *size); outside the old image they are 0.
        seed_key: number of every sample, see ``RandSeedd``.

    Raises:
        ValueError: when a share is out of range.
    """

    def __init__(
        self,
        affine_prob: float = 0.7,
        rotate_range: float = 0.2,
        scale_range: Sequence[float] = (0.12, 0.12),
        shear_range: Sequence[float] = (0.05, 0.05),
        smooth_prob: float = 0.15,
        smooth_sigma: tuple[float, float] = (0.3, 0.9),
        scale_prob: float = 0.5,
        scale_factor: float = 0.15,
        shift_prob: float = 0.5,
        shift_offset: float = 0.04,
        noise_prob: float = 0.3,
        noise_std: float = 0.02,
        image_key: str = "image",
        label_key: str = "label",
        seed_key: str = SEED,
    ) -> None:
        for name, share in (("affine_prob", affine_prob), ("smooth_prob", smooth_prob), ("scale_prob", scale_prob),
                            ("shift_prob", shift_prob), ("noise_prob", noise_prob)):  # fmt: skip
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"DeviceAugmentation: {name}={share}; give 0 to 1.")
        self.affine_prob, self.smooth_prob, self.noise_prob = affine_prob, smooth_prob, noise_prob
        self.scale_prob, self.shift_prob = scale_prob, shift_prob
        self.smooth_sigma, self.noise_std = smooth_sigma, noise_std
        self.scale_factor, self.shift_offset = scale_factor, shift_offset
        self.grid = RandAffineGrid(
            rotate_range=rotate_range, shear_range=shear_range, scale_range=scale_range, lazy=True
        )
        self.image_key, self.label_key, self.seed_key = image_key, label_key, seed_key

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and label of a batch, augmented, on the device.

        Raises:
            KeyError: when the samples have no number.
        """
        if self.seed_key not in batchdata:
            raise KeyError(
                f"a batch without `{self.seed_key}`: scripts.training.augment.RandSeedd must stand in `augment`"
            )
        seeds = [int(s) for s in batchdata[self.seed_key]]
        pair = {k: batchdata[k] for k in (self.image_key, self.label_key)}
        renamed = {"image": pair[self.image_key], "label": pair[self.label_key]}
        image, label = default_prepare_batch(renamed, device, non_blocking, **kwargs)
        with torch.no_grad():
            return self.augment(image, label, seeds)

    def augment(
        self, image: torch.Tensor, label: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return augmented copies of images (B, C, *size) and labels (B, 1, *size), drawn from a seed each."""
        image, label, size = image.clone(), label.clone(), image.shape[2:]
        turned, thetas, smoothed, noisy = [], [], [], []
        factors, offsets = np.ones(len(seeds)), np.zeros(len(seeds))
        for sample, seed in enumerate(seeds):
            draw = np.random.RandomState(seed)
            if draw.rand() < self.affine_prob:
                turned.append(sample)
                thetas.append(self.theta(size, draw))
            if draw.rand() < self.smooth_prob:
                smoothed.append((sample, [draw.uniform(self.smooth_sigma[0], self.smooth_sigma[1]) for _ in size]))
            if draw.rand() < self.scale_prob:
                factors[sample] += draw.uniform(-self.scale_factor, self.scale_factor)
            if draw.rand() < self.shift_prob:
                offsets[sample] = draw.uniform(-self.shift_offset, self.shift_offset)
            if draw.rand() < self.noise_prob:
                noisy.append((sample, draw.uniform(0, self.noise_std), int(draw.randint(2**31 - 1))))

        if turned:
            theta = torch.stack(thetas).to(image)
            grid = functional.affine_grid(theta, [len(turned), 1, *size], align_corners=True)
            image[turned] = functional.grid_sample(image[turned], grid, mode="bilinear", align_corners=True)
            label[turned] = functional.grid_sample(
                label[turned].to(image), grid, mode="nearest", align_corners=True
            ).to(label)
        for sample, sigma in smoothed:
            image[sample] = GaussianFilter(len(size), sigma).to(image.device)(image[sample : sample + 1])[0]
        shape = (-1, *[1] * (image.ndim - 1))
        image.mul_(torch.as_tensor(factors).to(image).view(shape)).add_(torch.as_tensor(offsets).to(image).view(shape))
        for sample, std, seed in noisy:
            generator = torch.Generator(image.device).manual_seed(seed)
            noise = torch.randn(image.shape[1:], generator=generator, device=image.device, dtype=image.dtype)
            image[sample] += std * noise
        return image, label

    def theta(self, size: Sequence[int], draw: np.random.RandomState) -> torch.Tensor:
        """Draw where every voxel of the new image lies in the old one, as ``affine_grid`` of PyTorch wants it: (d, d + 1)."""
        dimensions = len(size)
        self.grid.set_random_state(state=draw)
        self.grid(spatial_size=size)  # lazy: the matrix alone
        matrix = torch.as_tensor(self.grid.get_transformation_matrix(), dtype=torch.float64)
        # MONAI counts voxels from the middle, PyTorch from -1 to 1 and the axes backwards.
        unit = torch.tensor([2.0 / max(n - 1, 1) for n in size], dtype=torch.float64)
        linear = unit[:, None] * matrix[:dimensions, :dimensions] / unit[None]
        return torch.cat([linear.flip(0, 1), (unit * matrix[:dimensions, -1]).flip(0)[:, None]], dim=1)
