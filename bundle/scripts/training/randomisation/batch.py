# SPDX-License-Identifier: Apache-2.0
"""Randomisation of whole batches as the trainer's ``prepare_batch``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from monai.engines import default_prepare_batch
from monai.utils import convert_to_tensor

from ..augment import SEED
from .transform import RandBatchTransform, RandomBatch

OUTSIDE = -1.0  # of the scaled images: -1400 HU in the default window, below any voxel of a scan


class BatchRandomisation:
    """The trainer's ``prepare_batch``: move a batch to the device and randomise it there.

    Images arrive scaled by ``hu_window`` to 0...1 and not clipped, blank voxels outside the scan hold ``outside``. They become HU,
    run through the transforms in order, are scaled again and clipped. Blank voxels stay blank: they enter no transform, and the
    spatial transform moves them along. In the end they hold ``outside_hu``, and the label ``ignore_index`` where the centre slice
    is blank.

    Every transform draws from a stream of the sample's seed and its class name (and number, when a class occurs again): without one
    transform the others draw the same, and a sample is the same in every batch, on one type of device.

    Args:
        transforms: transforms of the batch in order; none for validation, which then needs no seeds.
        hu_window: HU of the values 0 and 1.
        patch_size: size of the returned images; the canvas around it is cropped away. None: the size that the transforms return.
        outside: value of blank voxels in the scaled images.
        outside_hu: HU that blank voxels hold in the end; None: the lower end of ``hu_window``.
        image_key: images (B, C, *canvas), neighbouring slices as channels.
        label_key: labels (B, 1, *canvas), codes.
        seed_key: seed of every sample, see ``scripts.training.augment.RandSeedd``.
        ignore_index: label of voxels outside the scan.

    Raises:
        ValueError: when the window, the size or ``outside`` cannot be.
    """

    def __init__(
        self,
        transforms: Sequence[RandBatchTransform] = (),
        hu_window: Sequence[float] = (-200.0, 1000.0),
        patch_size: Sequence[int] | None = None,
        outside: float = OUTSIDE,
        outside_hu: float | None = None,
        image_key: str = "image",
        label_key: str = "label",
        seed_key: str = SEED,
        ignore_index: int = 255,
    ) -> None:
        if len(hu_window) != 2 or not hu_window[0] < hu_window[1]:
            raise ValueError(f"BatchRandomisation: hu_window={hu_window}; must be two HU, the smaller first.")
        if not outside < 0:
            raise ValueError(f"BatchRandomisation: outside={outside}; must be below 0, so that no voxel of a scan has it.")
        if patch_size is not None and (len(patch_size) != 2 or min(patch_size) < 1):
            raise ValueError(f"BatchRandomisation: patch_size={patch_size}; must be two numbers of voxels.")
        for transform in transforms:
            if not callable(transform):
                raise ValueError(f"BatchRandomisation: transforms contains {transform!r}; use scripts.training.randomisation.")
        self.transforms = tuple(transforms)
        self.hu_window = (float(hu_window[0]), float(hu_window[1]))
        self.patch_size = None if patch_size is None else tuple(int(n) for n in patch_size)
        self.outside, self.ignore_index = float(outside), int(ignore_index)
        self.outside_hu = self.hu_window[0] if outside_hu is None else float(outside_hu)
        self.image_key, self.label_key, self.seed_key = image_key, label_key, seed_key

    def __call__(
        self, batchdata: dict[str, torch.Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and label of a batch, randomised, on the device.

        Raises:
            KeyError: when the samples have no seed.
            ValueError: when images are not two-dimensional or smaller than the patch.
        """
        if self.transforms and self.seed_key not in batchdata:
            raise KeyError(f"a batch without `{self.seed_key}`: `augment` must contain scripts.training.augment.RandSeedd")
        pair = {"image": batchdata[self.image_key], "label": batchdata[self.label_key]}
        plain = {k: convert_to_tensor(v, track_meta=False) for k, v in pair.items()}  # operations on a MetaTensor are slow
        image, label = default_prepare_batch(plain, device, non_blocking, **kwargs)
        seeds = [int(s) for s in batchdata[self.seed_key]] if self.transforms else [0] * len(image)
        with torch.no_grad():
            return self.randomise(image, label, seeds)

    def randomise(self, image: torch.Tensor, label: torch.Tensor, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return randomised copies of scaled images (B, C, *canvas) and labels (B, 1, *canvas), each drawn from its own seed."""
        if image.ndim != 4:
            raise ValueError(f"BatchRandomisation: image has shape {tuple(image.shape)}; must be (B, C, H, W), spatial_dims 2.")
        low, high = self.hu_window
        image = image.float()  # HU of half precision would be steps
        outside = image <= self.outside + 1e-3
        hu = (image * (high - low) + low).masked_fill_(outside, low)
        batch = RandomBatch(hu, outside, label.clone(), seeds, self.hu_window)
        occurrences: Counter[str] = Counter()
        for transform in self.transforms:
            name = type(transform).__name__
            batch.open_stream(f"{name} {occurrences[name]}")
            occurrences[name] += 1
            batch = transform(batch)
        blank = min(max((self.outside_hu - low) / (high - low), 0.0), 1.0)
        scaled = batch.image.sub_(low).div_(high - low).clamp_(0, 1).masked_fill_(batch.outside, blank)
        centre = batch.outside.shape[1] // 2
        label = batch.label.masked_fill_(batch.outside[:, centre : centre + 1], self.ignore_index)
        return self.crop(scaled), self.crop(label)

    def crop(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the central ``patch_size`` of (B, C, H, W).

        Raises:
            ValueError: when the tensor is smaller.
        """
        if self.patch_size is None or tuple(tensor.shape[2:]) == self.patch_size:
            return tensor
        start = [(n - p) // 2 for n, p in zip(tensor.shape[2:], self.patch_size, strict=True)]
        if min(start) < 0:
            raise ValueError(
                f"BatchRandomisation: images of size {tuple(tensor.shape[2:])}, patch_size={self.patch_size}; "
                "the canvas of the data loader must be at least as large."
            )
        (h, w), (y, x) = self.patch_size, start
        return tensor[:, :, y : y + h, x : x + w].contiguous()
