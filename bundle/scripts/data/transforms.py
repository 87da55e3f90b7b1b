# SPDX-License-Identifier: Apache-2.0
"""Transforms that MONAI lacks, or that need a guard."""

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
        """Resample as ``Spacingd`` does; items other than dictionaries under such keys are passed on."""
        prefixes = tuple(f"{key}_" for key in self.keys)
        skipped = {k: v for k, v in data.items() if isinstance(k, str) and k.startswith(prefixes) and not isinstance(v, dict)}
        result = super().__call__({k: v for k, v in data.items() if k not in skipped}, lazy=lazy)  # type: ignore[arg-type]
        return {**result, **skipped}


class MaskIgnoredd(MapTransform):
    """Set ignored voxels to background, in the label and in everything that is compared with it.

    Args:
        keys: label maps (1, X, Y, Z), the label itself among them.
        label_key: label with the ignore index; it is read before anything is changed.
        ignore_index: value of ignored voxels.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", ignore_index: int = 255) -> None:
        super().__init__(keys)
        self.label_key, self.ignore_index = label_key, ignore_index

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with 0 where the label has the ignore index."""
        result = dict(data)
        ignored = torch.as_tensor(data[self.label_key] == self.ignore_index)
        for key in self.key_iterator(result):
            result[key] = torch.where(ignored.to(result[key].device), torch.zeros_like(result[key]), result[key])
        return result
