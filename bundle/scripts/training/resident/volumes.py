# SPDX-License-Identifier: Apache-2.0
"""Preprocessed volumes of a data set in the memory of a device, in 16 or 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

BITS = (16, 8)
LABEL_BYTES = 1


def required_bytes(voxels: int, bits: int) -> int:
    """Memory of images and labels of this number of voxels."""
    return voxels * (bits // 8 + LABEL_BYTES)


class ResidentVolumes:
    """Images and labels of cases in two flat tensors on a device.

    Images are stored as equal steps between the smallest and the largest value: 0.05 HU with 16 bits, 12 HU with 8, for the values
    of configs/randomisation.yaml. Both ends are exact, so the value of blank voxels outside a scan stays as it is.

    Args:
        shapes: (D, H, W) of every case.
        value_range: smallest and largest value of all images; others are clipped.
        device: device of the tensors.
        bits: 16 or 8, of an image's voxel.

    Raises:
        ValueError: for another number of bits or an empty range.
    """

    def __init__(
        self, shapes: Sequence[Sequence[int]], value_range: tuple[float, float], device: torch.device, bits: int = 16
    ) -> None:
        if bits not in BITS:
            raise ValueError(f"ResidentVolumes: bits={bits}; must be 16 or 8.")
        if not value_range[0] < value_range[1]:
            raise ValueError(f"ResidentVolumes: value_range={value_range}; the first must be the smaller.")
        self.bits, self.device = bits, torch.device(device)
        self.low = float(value_range[0])
        self.step = (float(value_range[1]) - self.low) / (2**bits - 1)
        # PyTorch has no operations on 16 unsigned bits, so those are stored shifted to the signed range.
        self.shift, self.dtype = (2**15, torch.int16) if bits == 16 else (0, torch.uint8)
        sizes = [int(np.prod(shape)) for shape in shapes]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.starts = torch.from_numpy(starts[:-1].copy()).to(self.device)
        self.shapes = torch.tensor([list(map(int, shape)) for shape in shapes], dtype=torch.int64, device=self.device)
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(starts)]
        self.images = torch.empty(int(starts[-1]), dtype=self.dtype, device=self.device)
        self.labels = torch.empty(int(starts[-1]), dtype=torch.uint8, device=self.device)

    def store(self, case: int, image: NDArray[np.floating], label: NDArray) -> None:
        """Quantise and store image and label (D, H, W) of a case."""
        levels = np.rint((np.asarray(image, dtype=np.float32).ravel() - self.low) / self.step)
        levels = np.clip(levels, 0, 2**self.bits - 1) - self.shift
        part = self.slices[case]
        self.images[part].copy_(torch.from_numpy(levels.astype(np.int16 if self.bits == 16 else np.uint8)))
        self.labels[part].copy_(torch.from_numpy(np.asarray(label).astype(np.uint8).ravel()))

    def gather(
        self, cases: torch.Tensor, corners: torch.Tensor, size: Sequence[int], offsets: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops of a batch, in one indexing operation for images and one for labels.

        Args:
            cases: number of the case of every crop (B,).
            corners: first voxel of every crop (B, 3).
            size: (D, H, W) of a crop.
            offsets: slices that become the channels of 2D crops, from the centre of D (2.5D); None for 3D crops.

        Returns:
            Images (B, C, H, W) and labels (B, 1, H, W), in 3D (B, 1, D, H, W), float32, on the device.
        """
        index = torch.stack([cases, *corners.T]).to(self.device, non_blocking=True)
        case, corner = index[0], index[1:]
        _, rows, columns = self.shapes[case].T
        depth = torch.arange(size[0]) if offsets is None else torch.tensor([size[0] // 2 + int(o) for o in offsets])
        depth = depth.to(self.device, non_blocking=True)

        def plane(number: int) -> torch.Tensor:
            return torch.arange(size[number], device=self.device)[None] + corner[number][:, None]

        start = self.starts[case]
        base = start[:, None] + (corner[0][:, None] + depth[None]) * (rows * columns)[:, None]
        inside = (plane(1) * columns[:, None])[:, :, None] + plane(2)[:, None]
        voxel = base[:, :, None, None] + inside[:, None]
        image = (self.images[voxel].float() + self.shift).mul_(self.step).add_(self.low)
        if offsets is None:
            return image[:, None], self.labels[voxel].float()[:, None]
        centre = start[:, None] + (corner[0] + size[0] // 2)[:, None] * (rows * columns)[:, None]
        return image, self.labels[centre[:, :, None, None] + inside[:, None]].float()
