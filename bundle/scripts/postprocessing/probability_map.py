# SPDX-License-Identifier: Apache-2.0
"""Probabilities in a box of the working grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Probabilities:
    """Probabilities in a box of the working grid; 0 outside.

    Attributes:
        volume: probabilities of fracture (R, A, S), float16.
        origin: first voxel of the box.
        num_windows: windows that were predicted in the coarse and the fine pass.
        auxiliary: probabilities of the auxiliary outputs by name ("vertebra", "body"), of the same shape.
    """

    volume: NDArray[np.float16]
    origin: tuple[int, int, int]
    num_windows: tuple[int, int] = (0, 0)
    auxiliary: Mapping[str, NDArray[np.float16]] = field(default_factory=dict)

    def border(self, shape: Sequence[int]) -> tuple[tuple[bool, bool], ...]:
        """For each axis, True where the first and the last plane of the box are the border of the grid of this shape."""
        return tuple((o == 0, o + n == total) for o, n, total in zip(self.origin, self.volume.shape, shape, strict=True))
