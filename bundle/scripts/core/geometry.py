# SPDX-License-Identifier: Apache-2.0
"""Geometry of voxel grids: spacing of an affine, distance between two grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

AFFINE_TOLERANCE_MM = 0.05  # of corners, between grids that count as equal


def spacing_of(affine: ArrayLike) -> NDArray[np.float64]:
    """Voxel size (mm) along the three axes of an affine (4, 4) or its linear part (3, 3)."""
    return np.linalg.norm(np.asarray(affine, float)[:3, :3], axis=0)


def grid_offset(shape: Sequence[int], first: NDArray, second: NDArray) -> float:
    """Largest distance (mm) along a world axis between the corners of a volume of ``shape`` under two affines (4, 4)."""
    corners = np.array([[(0, n - 1)[b] for n, b in zip(shape, bits, strict=True)] for bits in np.ndindex(2, 2, 2)])
    difference = first - second
    return float(np.abs(corners @ difference[:3, :3].T + difference[:3, 3]).max())
