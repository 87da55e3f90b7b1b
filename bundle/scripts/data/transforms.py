# SPDX-License-Identifier: Apache-2.0
"""Transforms that MONAI lacks or that need a guard."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Spacingd


class SafeSpacingd(Spacingd):
    """``Spacingd`` that tolerates plain strings beside the image, such as the ``image_path`` that MONAI Label adds.

    MONAI 1.6 updates every item whose key starts with the image's key and an underscore as if it were a dictionary of metadata.
    """

    def __call__(self, data: Mapping[Hashable, object], lazy: bool | None = None) -> dict[Hashable, object]:
        """Resample as ``Spacingd`` does; items it cannot handle are set aside meanwhile."""
        prefixes = tuple(f"{key}_" for key in self.keys)
        aside = {
            k: v for k, v in data.items() if isinstance(k, str) and k.startswith(prefixes) and not isinstance(v, dict)
        }
        result = super().__call__({k: v for k, v in data.items() if k not in aside}, lazy=lazy)  # type: ignore[arg-type]
        return {**result, **aside}


class MaskIgnoredd(MapTransform):
    """Turn voxels that nobody knows into background, in the label and in everything that is judged by it.

    Args:
        keys: label maps to clean, the label itself among them.
        label_key: label that marks unknown voxels; it is read before anything is changed.
        ignore_index: the mark.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", ignore_index: int = 255) -> None:
        super().__init__(keys)
        self.label_key, self.ignore_index = label_key, ignore_index

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with 0 where the label holds the mark."""
        result = dict(data)
        unknown = torch.as_tensor(data[self.label_key] == self.ignore_index)
        for key in self.key_iterator(result):
            result[key] = torch.where(unknown.to(result[key].device), torch.zeros_like(result[key]), result[key])
        return result
