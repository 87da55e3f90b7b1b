# SPDX-License-Identifier: Apache-2.0
"""2.5D samples: the slices of a slab as channels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..networks.slice_context import slice_offsets


class SliceContextd(MapTransform):
    """Convert slabs of slices into 2D samples: the centre slice with its neighbours as channels; of labels the centre slice only.

    Args:
        keys: slabs (1, 2 n step + 1, Y, Z), images and labels.
        image_keys: keys whose neighbours become channels: (2 n + 1, Y, Z). The others become (1, Y, Z).
        neighbours: n, slices on each side.
        step: slices from one channel to the next.

    Raises:
        ValueError: for a number out of range, or a slab of a different thickness.
    """

    def __init__(self, keys: KeysCollection, image_keys: KeysCollection, neighbours: int = 0, step: int = 1) -> None:
        super().__init__(keys)
        self.image_keys = (image_keys,) if isinstance(image_keys, str) else tuple(image_keys)  # type: ignore[arg-type]
        self.offsets = slice_offsets(neighbours, step)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items as 2D samples."""
        result = dict(data)
        thickness = self.offsets[-1] - self.offsets[0] + 1
        for key in self.key_iterator(result):
            slab = result[key]
            if slab.shape[1] != thickness:
                raise ValueError(
                    f"SliceContextd: `{key}` has {slab.shape[1]} slices; expected {thickness} for neighbours and step."
                )
            offsets = self.offsets if key in self.image_keys else [0]
            result[key] = torch.cat([slab[:, thickness // 2 + o] for o in offsets], dim=0)
        return result
