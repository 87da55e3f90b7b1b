# SPDX-License-Identifier: Apache-2.0
"""Positions of random crops, drawn by MONAI's own transforms without cropping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.transforms import (
    CastToTyped,
    Compose,
    EnsureTyped,
    RandCropByLabelClassesd,
    RandCropByPosNegLabeld,
    RandomizableTrait,
    Transform,
)
from torch.utils.data import Dataset

from ...data.slice_context import SliceContextd
from ..augment import RandSeedd

CROPPERS = (RandCropByLabelClassesd, RandCropByPosNegLabeld)


def first_random(transform: Compose) -> int | None:
    """Position of the first random transform."""
    return transform.get_index_of_first(lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform))


def unsupported(transform: Compose) -> str | None:
    """Reason why crops of these transforms cannot be gathered on a device, or None.

    The random part must be a crop of fractured and other voxels, and after it only slice context, types and seeds.
    """
    start = first_random(transform)
    tail = [] if start is None else list(transform.transforms[start:])
    if not tail or not isinstance(tail[0], CROPPERS):
        return "the first random transform must be RandCropByLabelClassesd or RandCropByPosNegLabeld"
    for step in tail[1:]:
        if not isinstance(step, (CastToTyped, SliceContextd, RandSeedd, EnsureTyped)):
            return f"{type(step).__name__} runs in the data loader; randomise on the device (configs/randomisation.yaml)"
    return None


class CropPlan(Dataset):
    """Random crops of cases as numbers of a case, corners and seeds, equal to those of the data loader for equal seeds.

    Args:
        data: cases of the datalist, for messages.
        transform: transforms of the training with a random part that ``unsupported`` accepts.
        shapes: (D, H, W) of the preprocessed cases.
        indices: for every case the items that hold its indices of voxels, such as ``fracture_cls_indices``.

    Attributes:
        transform: the random part; ``training.sampling.SeededDataset`` seeds it.
        size: (D, H, W) of a crop.
        offsets: slices that become channels, None for 3D.

    Raises:
        ValueError: for transforms that are not supported.
    """

    def __init__(
        self, data: Sequence[Any], transform: Compose, shapes: Sequence[Sequence[int]], indices: Sequence[Mapping[str, Any]]
    ) -> None:
        if reason := unsupported(transform):
            raise ValueError(f"CropPlan: {reason}.")
        self.data, self.shapes, self.indices = data, shapes, indices
        self.transform = Compose(transform.transforms[first_random(transform) :])
        self.crop: Any = self.transform.transforms[0]
        self.size = tuple(int(n) for n in self.crop.cropper.spatial_size)
        contexts = [t for t in self.transform.transforms if isinstance(t, SliceContextd)]
        self.offsets = contexts[0].offsets if contexts else None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> list[dict[Any, Any]]:
        """Return the crops of a case: ``case_number``, ``corner`` (3,) and the seed of the randomisation."""
        shape = torch.empty((1, *self.shapes[index]), device="meta")  # the transforms read the shape alone
        if isinstance(self.crop, RandCropByLabelClassesd):
            self.crop.randomize(shape, self.indices[index][self.crop.indices_key])
        else:
            items = self.indices[index]
            self.crop.randomize(shape, items[self.crop.fg_indices_key], items[self.crop.bg_indices_key])
        corners = [[int(c) - n // 2 for c, n in zip(centre, self.size, strict=True)] for centre in self.crop.cropper.centers]
        samples: list[dict[Any, Any]] = [{"case_number": index, "corner": torch.tensor(corner)} for corner in corners]
        for step in self.transform.transforms:
            if isinstance(step, RandSeedd):
                samples = [{**sample, step.key: step({})[step.key]} for sample in samples]
        return samples
