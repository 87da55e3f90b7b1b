# SPDX-License-Identifier: Apache-2.0
"""Simulated fractures as a transform in a training config."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from ...core.genant import SHAPES
from ...data.datalist import IGNORE_INDEX
from ..datasets.simulate import marked_vertebrae, training_label
from ..spine_scan import SpineScan
from .sampling import add_fractures


class RandSimulatedFractured(RandomizableTransform, MapTransform):
    """Fracture vertebrae on the fly, each time anew. Put it between loading and resampling, before any caching ends.

    Args:
        keys: key of the CT in HU, (1, X, Y, Z), with its affine.
        vertebrae_key: vertebra instances on the same grid, VerSe labels.
        label_key: training label to write; fractures and unknown voxels that it holds already are kept.
        prob: share of calls that add fractures.
        fractures: greatest number of new fractures.
        shapes: shapes to draw from.
        grades: Genant grades to draw from.
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
        """Return the items with the CT, the vertebrae and the label changed."""
        result = dict(data)
        self.randomize(None)
        key = self.keys[0]
        image, vertebrae = result[key], result[self.vertebrae_key]
        affine = np.asarray(image.affine, np.float64)  # type: ignore[attr-defined]
        labels = np.asarray(vertebrae)[0].astype(np.uint8)
        values = np.clip(np.round(np.asarray(image)[0]), -1024, 3071).astype(np.int16)
        old = np.asarray(result[self.label_key])[0] if self.label_key in result else None
        fractured = [] if old is None else marked_vertebrae(labels, old, 1)
        unknown = [] if old is None else marked_vertebrae(labels, old, IGNORE_INDEX)
        scan = SpineScan(values, labels, affine)
        if self._do_transform:
            rng = np.random.default_rng(self.R.randint(2**31))
            wanted = int(rng.integers(1, self.fractures + 1))
            scan = add_fractures(scan, rng, wanted, self.shapes, self.grades, exclude=[*fractured, *unknown])
        mask = training_label(scan, fractured, unknown, old)
        like = result.get(self.label_key, vertebrae)
        for name, array, template in (
            (key, scan.image, image),
            (self.vertebrae_key, scan.labels, vertebrae),
            (self.label_key, mask, like),
        ):
            new = template.clone()
            new[0] = torch.as_tensor(array.astype(np.float32), dtype=new.dtype)
            result[name] = new
        return result
