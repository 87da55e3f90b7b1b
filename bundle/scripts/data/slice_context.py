# SPDX-License-Identifier: Apache-2.0
"""2.5D samples: slabs of slices become channels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..networks.slice_context import slice_offsets


class SliceContextd(MapTransform):
    """Turn slabs of slices into 2D samples: the middle slice and its neighbours become channels, of labels the middle alone.

    Args:
        keys: slabs (1, 2 n step + 1, Y, Z), images and labels.
        image_keys: those whose neighbours become channels: (2 n + 1, Y, Z). The others become (1, Y, Z).
        neighbours: n, slices on each side; 0 takes the only slice.
        step: slices from one channel to the next.

    Raises:
        ValueError: for a number out of range, or a slab of another thickness.
    """

    def __init__(self, keys: KeysCollection, image_keys: KeysCollection, neighbours: int = 0, step: int = 1) -> None:
        super().__init__(keys)
        self.image_keys = (image_keys,) if isinstance(image_keys, str) else tuple(image_keys)  # type: ignore[arg-type]
        self.offsets = slice_offsets(neighbours, step)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items as 2D samples."""
        result = dict(data)
        thick = self.offsets[-1] - self.offsets[0] + 1
        for key in self.key_iterator(result):
            slab = result[key]
            if slab.shape[1] != thick:
                raise ValueError(
                    f"SliceContextd: `{key}` has {slab.shape[1]} slices; neighbours and step want {thick}."
                )
            wanted = self.offsets if key in self.image_keys else [0]
            result[key] = torch.cat([slab[:, thick // 2 + o] for o in wanted], dim=0)
        return result
