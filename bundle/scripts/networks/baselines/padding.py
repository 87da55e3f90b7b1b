# SPDX-License-Identifier: Apache-2.0
"""Any input size for networks whose strides allow only some: repeat the border, and cut the answer back."""

from __future__ import annotations

import torch
from torch.nn import functional


def pad_to_multiple(x: torch.Tensor, multiple: int, least: int = 1) -> torch.Tensor:
    """Repeat the far borders of an image until every axis is a multiple of ``multiple``.

    Args:
        x: image (B, C, *size), 2D or 3D.
        multiple: product of the strides of the network.
        least: multiples an axis gets at least. Two, where a normalisation runs at the coarsest level: it has no variance to
            divide by in a single position.

    Returns:
        (B, C, *padded); the image itself where nothing is missing.
    """
    pads: list[int] = []
    for axis in range(x.dim() - 1, 1, -1):
        size = x.shape[axis]
        pads.extend([0, max(-(-size // multiple), least) * multiple - size])
    if max(pads) > 0:
        x = functional.pad(x, pads, mode="replicate")
    return x


def crop_to(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Cut (B, C, *padded) back to (B, C, *size), the inverse of ``pad_to_multiple``."""
    for axis in range(len(size)):
        x = x.narrow(axis + 2, 0, size[axis])
    return x
