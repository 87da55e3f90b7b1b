# SPDX-License-Identifier: Apache-2.0
"""A CT with vertebra instances in memory, the common type of phantoms, renderings and simulated fractures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HU_RANGE = (-1024, 3071)  # of CTs stored in 12 bits


def to_hu(image: NDArray) -> NDArray[np.int16]:
    """Round an image to whole HU within ``HU_RANGE``."""
    return np.clip(np.round(image), *HU_RANGE).astype(np.int16)


@dataclass
class SpineScan:
    """A CT with vertebra instances.

    Attributes:
        image: (X, Y, Z) HU, int16.
        labels: (X, Y, Z) vertebra instances, VerSe labels.
        affine: (4, 4) voxel to world (R, A, S) in mm.
        fractures: one record per simulated fracture, with at least ``label``, ``shape`` and ``grade``.
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    fractures: list[dict] = field(default_factory=list)
