# SPDX-License-Identifier: Apache-2.0
"""From probabilities to findings, on the working grid and only where something was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, find_objects, label

from .transforms import longest_run


@dataclass(frozen=True)
class PostProcessing:
    """What becomes of probabilities.

    Args:
        threshold: probability above which a voxel is fracture.
        min_volume_mm3: connected findings that are smaller are dropped.
        fill_holes: whether cavities inside a finding become part of it.
        largest: number of findings that are kept, the largest first; None keeps all.
        min_width_mm: findings that nowhere reach this far from left to right without a gap are dropped: a broken body is wider
            than the joints and processes beside it.

    Raises:
        ValueError: for a value out of range.
    """

    threshold: float = 0.5
    min_volume_mm3: float = 1000.0
    fill_holes: bool = False
    largest: int | None = None
    min_width_mm: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: give a probability above 0 and below 1")
        if self.min_volume_mm3 < 0:
            raise ValueError(f"min_volume_mm3={self.min_volume_mm3}: give 0 or more")
        if self.min_width_mm < 0:
            raise ValueError(f"min_width_mm={self.min_width_mm}: give a distance in mm, or 0 for any")
        if self.largest is not None and self.largest < 1:
            raise ValueError(f"largest={self.largest}: give 1 or more, or None for all")

    def is_wide(self, finding: NDArray[np.bool_], spacing: Sequence[float]) -> bool:
        """Whether a finding (R, A, S) somewhere reaches ``min_width_mm`` from left to right."""
        return self.min_width_mm <= 0 or longest_run(finding) * spacing[0] >= self.min_width_mm

    def __call__(self, volume: NDArray[np.float16], spacing: Sequence[float]) -> NDArray[np.int32]:
        """Find connected findings and number them by size, the largest first.

        Args:
            volume: probabilities (R, A, S); what is dropped is set to 0 in it, filled cavities to 1.
            spacing: mm.

        Returns:
            Number of the finding at every voxel, 0 elsewhere. A number reaches one voxel further than its finding, so that a voxel
            of a finer grid finds it at its nearest voxel.
        """
        if volume.size == 0:
            return np.zeros(volume.shape, np.int32)
        marked, _ = label(volume > self.threshold, output=np.int32)
        boxes = find_objects(marked)
        smallest = self.min_volume_mm3 / float(np.prod(spacing))
        found = []
        for number, box in enumerate(boxes, 1):
            inside = marked[box] == number
            if self.fill_holes:
                filled = binary_fill_holes(inside)
                volume[box][filled & ~inside] = 1
                inside = filled
            found.append((int(np.count_nonzero(inside)), number, box, inside))
        found.sort(key=lambda f: (-f[0], f[1]))
        kept = [f for f in found if f[0] >= smallest and self.is_wide(f[3], spacing)][: self.largest]
        keep = {f[1] for f in kept}
        for _, number, box, inside in found:
            if number not in keep:
                volume[box][inside] = 0
        numbers = np.zeros(volume.shape, np.int32)
        for new, (_, _, box, inside) in enumerate(kept, 1):
            wide = tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, volume.shape, strict=True))
            core = np.zeros([s.stop - s.start for s in wide], bool)
            core[tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))] = inside
            spread = binary_dilation(core, np.ones((3, 3, 3), bool))
            view = numbers[wide]
            view[core | (spread & (view == 0))] = new
        return numbers
