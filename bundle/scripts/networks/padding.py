# SPDX-License-Identifier: Apache-2.0
"""Padding to a multiple of a network's stride, and the crop that undoes it."""

from __future__ import annotations

import torch
from torch.nn import functional


def pad_to_multiple(x: torch.Tensor, multiple: int, min_multiples: int = 1) -> torch.Tensor:
    """Pad an image at the end of each axis by replicating its border, as MONAI's ``DivisiblePad`` with ``method="end"``.

    Args:
        x: image (B, C, *size), 2D or 3D.
        multiple: product of the strides of the network.
        min_multiples: smallest padded size, in multiples. Use 2 where a normalisation runs at the coarsest level: the variance of a
            single position is zero.

    Returns:
        (B, C, *padded size); the image itself where its size fits already.
    """
    pads: list[int] = []
    for axis in range(x.dim() - 1, 1, -1):
        size = x.shape[axis]
        pads.extend([0, max(-size % multiple, min_multiples * multiple - size)])
    if max(pads) > 0:
        x = functional.pad(x, pads, mode="replicate")
    return x


def crop_to(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Crop (B, C, *padded size) to (B, C, *size), the inverse of ``pad_to_multiple``."""
    for axis in range(len(size)):
        x = x.narrow(axis + 2, 0, size[axis])
    return x
