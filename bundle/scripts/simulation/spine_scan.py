# SPDX-License-Identifier: Apache-2.0
"""A CT with vertebra labels in memory: what phantoms, renderings and simulated fractures share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class SpineScan:
    """A CT with vertebra labels: ``image`` in HU (int16), ``labels`` in VerSe's convention (uint8), both (R, A, S)."""

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    fractures: list[dict] = field(default_factory=list)
