# SPDX-License-Identifier: Apache-2.0
"""Random rotation, size, shear and mirroring of batches of slices."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, exp, sin

import numpy as np
import torch
from torch.nn import functional

from .transform import RandBatchTransform, RandomBatch

# Share of the interpolation that must lie in the scan: rounding of an identical grid is far below 1e-3.
INSIDE = 0.999


class RandBatchAffine(RandBatchTransform):
    """Rotate, scale, shear, mirror and crop slices, in one resampling: bilinear images, nearest labels.

    Sizes, angles and shears are normal, voxels isotropic in the plane. A voxel that takes any part from outside the scan or the
    canvas is outside. Mirroring of right and left reverses the channels, the neighbouring slices of a sagittal one.

    Args:
        rotate_std: standard deviation of the angle, radians.
        scale_std: standard deviation of the logarithm of the magnification.
        anisotropy_std: standard deviation of the logarithm of a further magnification of each axis.
        shear_std: standard deviation of the shear, voxels per voxel.
        patch_size: size of the result, cut from the canvas; None for that of the canvas.
        translate: largest shift of the patch from the centre of the canvas along each axis, uniform, voxels of the canvas; of all
            samples.
        flip_prob: probability of mirroring, of all samples.
        prob: probability of rotation, magnification and shear.

    Raises:
        ValueError: when a value is negative, no probability or no size in two dimensions.
    """

    def __init__(
        self,
        rotate_std: float = 0.17,
        scale_std: float = 0.13,
        anisotropy_std: float = 0.06,
        shear_std: float = 0.06,
        patch_size: Sequence[int] | None = None,
        flip_prob: float = 0.5,
        prob: float = 1.0,
        translate: Sequence[float] = (0.0, 0.0),
    ) -> None:
        super().__init__(prob)
        if patch_size is not None and (len(patch_size) != 2 or min(patch_size) < 1):
            raise ValueError(f"RandBatchAffine: patch_size={patch_size}; must be two numbers of voxels, the transform is 2D.")
        self.patch_size = None if patch_size is None else tuple(int(n) for n in patch_size)
        self.rotate_std = self.at_least("rotate_std", rotate_std)
        self.scale_std = self.at_least("scale_std", scale_std)
        self.anisotropy_std = self.at_least("anisotropy_std", anisotropy_std)
        self.shear_std = self.at_least("shear_std", shear_std)
        self.flip_prob = self.probability("flip_prob", flip_prob)
        if len(translate) != 2:
            raise ValueError(f"RandBatchAffine: translate={translate}; must be two numbers of voxels, the transform is 2D.")
        self.translate = tuple(self.at_least("translate", t) for t in translate)

    def __call__(self, batch: RandomBatch) -> RandomBatch:
        """Move image, mask and label of the batch, and return it."""
        canvas = tuple(batch.image.shape[2:])
        size = self.patch_size or canvas
        values = [self.parameters(draw) for draw in batch.draws]
        theta = np.stack([self.theta(value[1:5], canvas, size, value[5:]) for value in values]).astype(np.float32)
        matrix = torch.as_tensor(theta).to(batch.image.device, non_blocking=True)
        grid = functional.affine_grid(matrix, [len(values), 1, *size], align_corners=False).to(batch.image.dtype)

        channels = batch.image.shape[1]
        pair = torch.cat([batch.image, (~batch.outside).to(batch.image.dtype)], dim=1)
        moved = functional.grid_sample(pair, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        label = functional.grid_sample(batch.label.to(pair.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False)
        image, outside = moved[:, :channels], moved[:, channels:] < INSIDE
        mirrored = batch.columns([value[:1] for value in values])[0] > 0
        batch.image = torch.where(mirrored, image.flip(1), image)
        batch.outside = torch.where(mirrored, outside.flip(1), outside)
        batch.label = label.to(batch.label.dtype)
        return batch

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw mirroring (1 or 0), angle, logarithms of the magnification of both axes, shear and shifts of one sample."""
        mirrored, applied = float(draw.random() < self.flip_prob), float(draw.random() < self.prob)
        angle, scale, first, second, shear = applied * draw.standard_normal(5)
        scale *= self.scale_std
        shift = draw.uniform(-1, 1, 2)
        return (
            mirrored,
            angle * self.rotate_std,
            scale + first * self.anisotropy_std,
            scale + second * self.anisotropy_std,
            shear * self.shear_std,
            shift[0] * self.translate[0],
            shift[1] * self.translate[1],
        )

    @staticmethod
    def theta(
        values: Sequence[float], canvas: Sequence[int], size: Sequence[int], shift: Sequence[float] = (0.0, 0.0)
    ) -> np.ndarray:
        """Affine matrix (2, 3) from the patch to the canvas in the convention of PyTorch's ``affine_grid``."""
        angle, log_first, log_second, shear = values
        rotation = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
        # From offsets in the patch to those in the canvas, voxels.
        linear = rotation @ np.array([[exp(-log_first), shear], [0.0, exp(-log_second)]])
        normalised = linear * np.asarray(size, float)[None] / np.asarray(canvas, float)[:, None]
        offset = 2 * np.asarray(shift, float) / np.asarray(canvas, float)
        return np.concatenate([normalised[::-1, ::-1], offset[::-1, None]], axis=1)
