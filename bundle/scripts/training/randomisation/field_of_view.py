# SPDX-License-Identifier: Apache-2.0
"""Random field of view: what lies outside it is not in the scan, as in scans cropped closely around a few vertebrae."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .transform import RandBatchTransform, RandomBatch


class RandFieldOfView(RandBatchTransform):
    """Take everything outside a random box in the plane, equal for all channels, out of the scan: blank, and without loss.

    Args:
        size: smallest and largest share of the patch along each axis, at most 1; those of a sample are uniform and independent, as
            is the position of the box.
        prob: probability that a sample is changed.

    Raises:
        ValueError: when a value is out of range.
    """

    def __init__(self, size: Sequence[float] = (0.35, 1.0), prob: float = 0.4) -> None:
        super().__init__(prob)
        self.size = self.interval("size", size, 1e-3)
        if self.size[1] > 1:
            raise ValueError(f"RandFieldOfView: size={list(size)}; must be shares of the patch, at most 1.")

    def __call__(self, batch: RandomBatch) -> RandomBatch:
        """Extend the mask of what is outside, and return the batch."""
        boxes = batch.columns([self.parameters(draw) for draw in batch.draws])
        for axis, n in enumerate(batch.outside.shape[2:]):
            low, high = boxes[2 * axis : 2 * axis + 2]
            centres = (torch.arange(n, device=batch.outside.device) + 0.5) / n
            position = centres.reshape(-1, *[1] * (1 - axis))
            batch.outside |= (position < low) | (position >= high)
        return batch

    def parameters(self, draw: np.random.Generator) -> tuple[float, ...]:
        """Draw the lower and upper end of the box along both axes, shares of the patch."""
        changed = draw.random() < self.prob
        ends: list[float] = []
        for share, place in zip(draw.uniform(*self.size, 2), draw.random(2), strict=True):
            length = share if changed else 1.0
            ends += [place * (1 - length), place * (1 - length) + length]
        return tuple(ends)
