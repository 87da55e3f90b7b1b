# SPDX-License-Identifier: Apache-2.0
"""Rules of reading a scan whose file declares its geometry incompletely or inexactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAIRS = ("LR", "PA", "IS")
EXAMPLES = "such as RAS or LPS"


@dataclass(frozen=True)
class GeometryRules:
    """Rules that all readers share.

    Args:
        assume_orientation: directions of the voxel axes I, J, K, such as "RAS", for a file that declares none; None refuses it. A
            declared orientation is never replaced.
        position_tolerance_mm: greatest distance of a DICOM slice from its place on the regular grid, along each of its three
            directions, accumulated over the series.

    Raises:
        ValueError: for a value out of range, with the remedy.
    """

    assume_orientation: str | None = None
    position_tolerance_mm: float = 0.5

    def __post_init__(self) -> None:
        code, tolerance = self.assume_orientation, self.position_tolerance_mm
        if code is not None:
            letters = code.upper() if isinstance(code, str) else ""
            if len(letters) != 3 or any(sum(c in pair for c in letters) != 1 for pair in PAIRS):
                raise ValueError(
                    f"assume_orientation={code!r}: must be three letters, one each of L or R, P or A, I or S, {EXAMPLES}"
                )
            object.__setattr__(self, "assume_orientation", letters)
        number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
        if not number or not math.isfinite(tolerance) or tolerance <= 0:
            raise ValueError(f"position_tolerance_mm={tolerance!r}: must be a distance in mm above 0")

    def assumed_affine(self, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
        """Affine (R, A, S, mm) of the assumed orientation with its origin at the first voxel.

        Args:
            spacing: voxel size (3,) in mm along I, J, K.
        """
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, letter in enumerate(self.assume_orientation or "RAS"):
            world = next(n for n, pair in enumerate(PAIRS) if letter in pair)
            affine[world, axis] = spacing[axis] * (1 if letter in "RAS" else -1)
        return affine


DEFAULT_RULES = GeometryRules()
