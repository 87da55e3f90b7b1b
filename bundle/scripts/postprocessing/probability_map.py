# SPDX-License-Identifier: Apache-2.0
"""Probabilities in a box of the working grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Probabilities:
    """Probabilities in a box of the working grid; 0 outside.

    Attributes:
        volume: (R, A, S), float16.
        origin: first voxel of the box.
        num_windows: windows that were predicted in the coarse and the fine pass.
    """

    volume: NDArray[np.float16]
    origin: tuple[int, int, int]
    num_windows: tuple[int, int] = (0, 0)
