# SPDX-License-Identifier: Apache-2.0
"""Genant's semi-quantitative grading: shapes, grades and vertebral heights measured on a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Genant et al. 1993, doi:10.1002/jbmr.5650080915: grade 1 is 20-25 % loss of height, grade 2 25-40 %, grade 3 more than 40 %.
BANDS: dict[int, tuple[float, float]] = {1: (0.20, 0.25), 2: (0.25, 0.40), 3: (0.40, 0.80)}
# Where in a band the simulation aims: away from its borders, and within what is seen in patients.
AIMS: dict[int, tuple[float, float]] = {1: (0.215, 0.235), 2: (0.28, 0.37), 3: (0.43, 0.56)}
# Shape of the fracture -> where the body is measured; the codes 1 to 3 are those of the VerSe grading table.
SHAPES: dict[str, str] = {"wedge": "anterior", "biconcave": "middle", "crush": "mean"}
SHAPE_CODES: dict[str, int] = {"wedge": 1, "biconcave": 2, "crush": 3}


def grade_of(loss: float) -> int:
    """Return the Genant grade, 0 to 3, of a relative loss of height."""
    return sum(loss >= low for low, _ in BANDS.values())


@dataclass(frozen=True)
class BodyHeights:
    """Heights of a vertebral body in mm near its front, in its middle and near its back, in the mid-sagittal third."""

    anterior: float
    middle: float
    posterior: float

    @property
    def mean(self) -> float:
        """Mean of the three heights in mm."""
        return (self.anterior + self.middle + self.posterior) / 3

    def loss_from(self, intact: BodyHeights) -> dict[str, float]:
        """Relative loss of each height against ``intact``; keys "anterior", "middle", "posterior" and "mean"."""
        return {
            name: 1 - getattr(self, name) / max(getattr(intact, name), 1e-6)
            for name in ("anterior", "middle", "posterior", "mean")
        }


def heights_from_columns(
    height: NDArray[np.floating], footprint: NDArray[np.bool_], depth: NDArray[np.floating]
) -> BodyHeights:
    """Average column heights over the three zones.

    Args:
        height: (X, Y) height of the body in every column in mm.
        footprint: (X, Y) columns that belong to the body.
        depth: (X, Y) position between the posterior (0) and the anterior wall (1).
    """
    columns = np.nonzero(footprint.any(axis=1))[0]
    low, high = columns.min(), columns.max()
    third = (high - low) / 3
    central = np.zeros_like(footprint)
    central[int(np.floor(low + third)) : int(np.ceil(high - third)) + 1] = True

    def mean_between(start: float, stop: float) -> float:
        zone = footprint & central & (depth >= start) & (depth <= stop)
        return float(height[zone].mean()) if zone.any() else float("nan")

    return BodyHeights(mean_between(0.72, 0.93), mean_between(0.40, 0.60), mean_between(0.07, 0.28))
