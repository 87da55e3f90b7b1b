# SPDX-License-Identifier: Apache-2.0
"""Transforms that MONAI lacks or that need a guard."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Spacingd
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label


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


class LeaveOutUnknownd(MapTransform):
    """Turn voxels that nobody knows into background, in the label and in everything that is judged by it.

    Args:
        keys: label maps to clean, the label itself among them.
        label_key: label that marks unknown voxels; it is read before anything is changed.
        ignore_value: the mark.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label", ignore_value: int = 255) -> None:
        super().__init__(keys)
        self.label_key, self.ignore_value = label_key, ignore_value

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with 0 where the label holds the mark."""
        result = dict(data)
        unknown = torch.as_tensor(data[self.label_key] == self.ignore_value)
        for key in self.key_iterator(result):
            result[key] = torch.where(unknown.to(result[key].device), torch.zeros_like(result[key]), result[key])
        return result


def longest_run(mask: NDArray[np.bool_]) -> int:
    """Greatest number of True in a row along the first axis."""
    run, longest = np.zeros(mask.shape[1:], np.int32), 0
    for layer in mask:
        run = np.where(layer, run + 1, 0)
        longest = max(longest, int(run.max(initial=0)))
    return longest


class KeepWided(MapTransform):
    """Drop connected parts of a mask that nowhere reach far enough from left to right: bodies are wider than what is beside them.

    Args:
        keys: masks (1, X, Y, Z) with their affine (``MetaTensor``); any orientation.
        min_width: mm from left to right without a gap; 0 keeps everything.

    Raises:
        ValueError: for a negative width, or a mask without an affine.
    """

    def __init__(self, keys: KeysCollection, min_width: float = 0.0) -> None:
        super().__init__(keys)
        if min_width < 0:
            raise ValueError(f"KeepWided: min_width={min_width}; give a distance in mm, or 0 for any.")
        self.min_width = min_width

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items without the narrow parts of the masks."""
        result = dict(data)
        for key in self.key_iterator(result) if self.min_width > 0 else ():
            mask = result[key]
            if not isinstance(mask, MetaTensor):
                raise ValueError(f"KeepWided: `{key}` has no affine; load it as a MetaTensor, or set min_width to 0.")
            affine = mask.affine.cpu().numpy()[:3, :3]
            size = np.linalg.norm(affine, axis=0)
            axis = int(np.argmax(np.abs(affine[0]) / size))
            across = np.moveaxis(mask[0].cpu().numpy() > 0, axis, 0)
            parts, _ = label(across)
            narrow = np.zeros(across.shape, bool)
            for number, box in enumerate(find_objects(parts), 1):
                part = parts[box] == number
                if longest_run(part) * size[axis] < self.min_width:
                    narrow[box] |= part
            drop = torch.from_numpy(np.ascontiguousarray(np.moveaxis(narrow, 0, axis))).to(mask.device)[None]
            result[key] = torch.where(drop, torch.zeros_like(mask), mask)
        return result
