# SPDX-License-Identifier: Apache-2.0
"""Random augmentation of whole batches on the training device, in place of single samples in the data loader."""

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
    """Add the seed of a sample's augmentation on the device.

    It is drawn from the data loader's seeds and so a function of seed, epoch, case and sample, independent of the number of
    workers, the batch size and interruptions.

    Args:
        key: key of the seed, an integer.
    """

    def __init__(self, key: Hashable = SEED) -> None:
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the items with the seed."""
        return {**data, self.key: int(self.R.randint(2**31 - 1))}


class DeviceAugmentation:
    """The trainer's ``prepare_batch``: move a batch to the device and augment it there.

    The distributions are those of MONAI's ``RandAffined``, ``RandGaussianSmoothd``, ``RandScaleIntensityd``,
    ``RandShiftIntensityd`` and ``RandGaussianNoised``, one after the other. Parameters are drawn on the CPU, noise on the device;
    equal seeds give equal samples on one type of device.

    Args:
        affine_prob: probability of rotation, scaling and shear.
        rotate_range: largest angle, radians; in 3D about the first axis.
        scale_range: largest change of the size along every axis, 0.1 for 10 %.
        shear_range: largest shear factor, as in MONAI.
        smooth_prob: probability of smoothing.
        smooth_sigma: smallest and largest standard deviation, voxels.
        scale_prob: probability that the values are multiplied by 1 + f.
        scale_factor: largest f.
        shift_prob: probability of an intensity shift.
        shift_offset: largest shift.
        noise_prob: probability of noise.
        noise_std: largest standard deviation.
        image_key: images (B, C, *size).
        label_key: labels (B, 1, *size); 0 outside the original image.
        seed_key: seed of every sample, see ``RandSeedd``.

    Raises:
        ValueError: when a probability is out of range.
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
        for name, probability in (("affine_prob", affine_prob), ("smooth_prob", smooth_prob), ("scale_prob", scale_prob),
                            ("shift_prob", shift_prob), ("noise_prob", noise_prob)):  # fmt: skip
            if not 0.0 <= probability <= 1.0:
                raise ValueError(f"DeviceAugmentation: {name}={probability}; must be a probability, 0 to 1.")
        self.affine_prob, self.smooth_prob, self.noise_prob = affine_prob, smooth_prob, noise_prob
        self.scale_prob, self.shift_prob = scale_prob, shift_prob
        self.smooth_sigma, self.noise_std = smooth_sigma, noise_std
        self.scale_factor, self.shift_offset = scale_factor, shift_offset
        self.grid = RandAffineGrid(rotate_range=rotate_range, shear_range=shear_range, scale_range=scale_range, lazy=True)
        self.image_key, self.label_key, self.seed_key = image_key, label_key, seed_key

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and label of a batch, augmented, on the device.

        Raises:
            KeyError: when the samples have no seed.
        """
        if self.seed_key not in batchdata:
            raise KeyError(f"a batch without `{self.seed_key}`: `augment` must contain scripts.training.augment.RandSeedd")
        seeds = [int(s) for s in batchdata[self.seed_key]]
        pair = {k: batchdata[k] for k in (self.image_key, self.label_key)}
        renamed = {"image": pair[self.image_key], "label": pair[self.label_key]}
        image, label = default_prepare_batch(renamed, device, non_blocking, **kwargs)
        with torch.no_grad():
            return self.augment(image, label, seeds)

    def augment(self, image: torch.Tensor, label: torch.Tensor, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return augmented copies of images (B, C, *size) and labels (B, 1, *size), each drawn from its own seed."""
        image, label, size = image.clone(), label.clone(), image.shape[2:]
        transformed, thetas, smoothed, noisy = [], [], [], []
        factors, offsets = np.ones(len(seeds)), np.zeros(len(seeds))
        for sample, seed in enumerate(seeds):
            draw = np.random.RandomState(seed)
            if draw.rand() < self.affine_prob:
                transformed.append(sample)
                thetas.append(self.theta(size, draw))
            if draw.rand() < self.smooth_prob:
                smoothed.append((sample, [draw.uniform(self.smooth_sigma[0], self.smooth_sigma[1]) for _ in size]))
            if draw.rand() < self.scale_prob:
                factors[sample] += draw.uniform(-self.scale_factor, self.scale_factor)
            if draw.rand() < self.shift_prob:
                offsets[sample] = draw.uniform(-self.shift_offset, self.shift_offset)
            if draw.rand() < self.noise_prob:
                noisy.append((sample, draw.uniform(0, self.noise_std), int(draw.randint(2**31 - 1))))

        if transformed:
            theta = torch.stack(thetas).to(image)
            grid = functional.affine_grid(theta, [len(transformed), 1, *size], align_corners=True)
            image[transformed] = functional.grid_sample(image[transformed], grid, mode="bilinear", align_corners=True)
            label[transformed] = functional.grid_sample(label[transformed].to(image), grid, mode="nearest", align_corners=True).to(
                label
            )
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
        """Random affine matrix (d, d + 1) from output to input coordinates, in the convention of PyTorch's ``affine_grid``."""
        dimensions = len(size)
        self.grid.set_random_state(state=draw)
        self.grid(spatial_size=size)  # lazy: the matrix alone
        matrix = torch.as_tensor(self.grid.get_transformation_matrix(), dtype=torch.float64)
        # MONAI's coordinates are voxels from the centre, PyTorch's are -1 to 1 with the axes reversed.
        unit = torch.tensor([2.0 / max(n - 1, 1) for n in size], dtype=torch.float64)
        linear = unit[:, None] * matrix[:dimensions, :dimensions] / unit[None]
        return torch.cat([linear.flip(0, 1), (unit * matrix[:dimensions, -1]).flip(0)[:, None]], dim=1)
