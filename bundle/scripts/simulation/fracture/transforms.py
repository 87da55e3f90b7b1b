# SPDX-License-Identifier: Apache-2.0
"""Simulated fractures as a random transform of a training config."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from ...core.genant import SHAPES
from ..spine_scan import SpineScan, to_hu
from .labels import labelled_vertebrae, training_label
from .sampling import add_fractures


class RandSimulatedFractured(RandomizableTransform, MapTransform):
    """Fracture random vertebrae, different ones at each call. Place it after loading and before resampling and caching.

    Args:
        keys: key of the CT in HU, a MetaTensor (1, X, Y, Z).
        vertebrae_key: key of the vertebra instances on the same grid, VerSe labels.
        label_key: key of the training label, which is created if absent; its fractures and ignore index are kept.
        prob: probability of adding fractures.
        fractures: maximum number of new fractures.
        shapes: shapes to sample from.
        grades: Genant grades to sample from.
    """

    def __init__(
        self,
        keys: KeysCollection,
        vertebrae_key: str = "vertebrae",
        label_key: str = "label",
        prob: float = 0.75,
        fractures: int = 3,
        shapes: Sequence[str] = tuple(SHAPES),
        grades: Sequence[int] = (1, 2, 3),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.vertebrae_key, self.label_key = vertebrae_key, label_key
        self.fractures, self.shapes, self.grades = fractures, tuple(shapes), tuple(grades)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Copy of the items with new CT, vertebrae and label."""
        result = dict(data)
        self.randomize(None)
        key = self.keys[0]
        image, vertebrae = result[key], result[self.vertebrae_key]
        labels = np.rint(np.asarray(vertebrae)[0]).astype(np.uint8)  # scaled integers are a little off
        source = np.rint(np.asarray(result[self.label_key])[0]) if self.label_key in result else None
        fractured, ignored = labelled_vertebrae(labels, source)
        affine = np.asarray(image.affine, np.float64)  # type: ignore[attr-defined]
        scan = SpineScan(to_hu(np.asarray(image)[0]), labels, affine)
        if self._do_transform:
            rng = np.random.default_rng(self.R.randint(2**31))
            count = int(rng.integers(1, self.fractures + 1))
            scan = add_fractures(scan, rng, count, self.shapes, self.grades, exclude=[*fractured, *ignored], visible_discs=True)
        label = training_label(scan, fractured, ignored, source)
        for name, array, template in (
            (key, scan.image, image),
            (self.vertebrae_key, scan.labels, vertebrae),
            (self.label_key, label, result.get(self.label_key, vertebrae)),
        ):
            item = template.clone()
            item[0] = torch.as_tensor(array.astype(np.float32), dtype=item.dtype)
            result[name] = item
        return result
