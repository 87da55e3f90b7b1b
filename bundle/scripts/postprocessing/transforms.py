# SPDX-License-Identifier: Apache-2.0
"""Post-processing as transforms of a config."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label


def longest_run(mask: NDArray[np.bool_]) -> int:
    """Greatest number of True in a row along the first axis."""
    run, longest = np.zeros(mask.shape[1:], np.int32), 0
    for layer in mask:
        run = np.where(layer, run + 1, 0)
        longest = max(longest, int(run.max(initial=0)))
    return longest


class RemoveNarrowComponentsd(MapTransform):
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
            raise ValueError(f"RemoveNarrowComponentsd: min_width={min_width}; give a distance in mm, or 0 for any.")
        self.min_width = min_width

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items without the narrow parts of the masks."""
        result = dict(data)
        for key in self.key_iterator(result) if self.min_width > 0 else ():
            mask = result[key]
            if not isinstance(mask, MetaTensor):
                raise ValueError(
                    f"RemoveNarrowComponentsd: `{key}` has no affine; load it as a MetaTensor, or set min_width to 0."
                )
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
