# SPDX-License-Identifier: Apache-2.0
"""Levels, labels and order of the vertebrae in the convention of VerSe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Level by label (Sekuboyina et al. 2021, doi:10.1016/j.media.2021.102166).
LEVELS = {
    **{i: f"C{i}" for i in range(1, 8)},
    **{i + 7: f"T{i}" for i in range(1, 13)},
    **{i + 19: f"L{i}" for i in range(1, 7)},
    26: "S1",
    28: "T13",
}
LABELS = {name: label for label, name in LEVELS.items()}


def voxels_per_label(labels: NDArray) -> dict[int, int]:
    """Number of voxels of every label present, 1 to 255; counting is much faster than sorting a whole scan."""
    counts = np.zeros(256, np.int64)
    # Slab by slab along the slowest axis, as counting takes eight bytes a voxel.
    for slab in np.moveaxis(labels, int(np.argmax(np.abs(labels.strides))), 0):
        counts += np.bincount(np.asarray(slab, np.uint8).ravel(order="K"), minlength=256)
    return {int(v): int(counts[v]) for v in np.flatnonzero(counts) if v}


def region_of(level: str) -> str:
    """Region of a level such as "T12": "cervical", "thoracic" or "lumbar", which includes S1."""
    return {"C": "cervical", "T": "thoracic", "L": "lumbar", "S": "lumbar"}[level[0]]


def spine_order(labels: NDArray) -> list[int]:
    """Labels of the vertebrae of a mask from head to feet: T13 (28) between T12 and L1, the sacrum (26) last."""
    present = [v for v in voxels_per_label(labels) if v in LEVELS]
    return sorted(present, key=lambda v: 19.5 if v == 28 else v)
