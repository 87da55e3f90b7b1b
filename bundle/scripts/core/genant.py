# SPDX-License-Identifier: Apache-2.0
"""Genant's semi-quantitative grading: shapes, grades, and heights of a vertebral body measured on a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Relative loss of height by grade: mild, moderate, severe (Genant et al. 1993, doi:10.1002/jbmr.5650080915).
LOSS_BANDS: dict[int, tuple[float, float]] = {1: (0.20, 0.25), 2: (0.25, 0.40), 3: (0.40, 0.80)}
# Loss of height that is simulated for a grade: away from the borders of its band, and within the losses seen in patients.
SIMULATED_LOSS: dict[int, tuple[float, float]] = {1: (0.215, 0.235), 2: (0.28, 0.37), 3: (0.43, 0.56)}
# Height of the body that a shape of fracture reduces, a key of ``BodyHeights.loss_from``.
SHAPES: dict[str, str] = {"wedge": "anterior", "biconcave": "middle", "crush": "mean"}
# Zones of a body between its posterior (0) and its anterior wall (1), without the rims.
ZONES: dict[str, tuple[float, float]] = {"anterior": (0.72, 0.93), "middle": (0.40, 0.60), "posterior": (0.07, 0.28)}


def grade_of(loss: float) -> int:
    """Genant grade, 0 to 3, of a relative loss of height."""
    return sum(loss >= low for low, _ in LOSS_BANDS.values())


def weighted_kappa(first: Sequence[int], second: Sequence[int], grades: int = 4) -> float:
    """Agreement of two gradings of the same vertebrae, Cohen's kappa with quadratic weights (doi:10.1037/h0026256).

    Args:
        first: grades from 0 to ``grades`` - 1.
        second: grades of the same vertebrae by another method.
        grades: number of grades.

    Returns:
        1 for equal gradings, 0 for what chance allows; NaN where both have the same single grade, or without vertebrae.

    Raises:
        ValueError: when the gradings differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"weighted_kappa: {len(first)} and {len(second)} grades; both gradings must be of the same vertebrae.")
    counts = np.zeros((grades, grades))
    np.add.at(counts, (np.asarray(first, int), np.asarray(second, int)), 1.0)
    weights = np.subtract.outer(np.arange(grades), np.arange(grades)) ** 2
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / max(counts.sum(), 1.0)
    chance = float((weights * expected).sum())
    return 1 - float((weights * counts).sum()) / chance if chance else float("nan")


@dataclass(frozen=True)
class BodyHeights:
    """Anterior, middle and posterior height of a vertebral body in mm, in its mid-sagittal third."""

    anterior: float
    middle: float
    posterior: float

    @property
    def mean(self) -> float:
        """Mean of the three heights in mm."""
        return (self.anterior + self.middle + self.posterior) / 3

    def loss_from(self, intact: BodyHeights) -> dict[str, float]:
        """Loss of each height relative to ``intact``, by "anterior", "middle", "posterior" and "mean"."""
        return {
            name: 1 - getattr(self, name) / max(getattr(intact, name), 1e-6) for name in ("anterior", "middle", "posterior", "mean")
        }


def central_third(footprint: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Columns (X, Y) of the mid-sagittal third of a footprint (X, Y), whose first axis is lateral.

    Raises:
        ValueError: when the footprint is empty.
    """
    columns = np.nonzero(footprint.any(axis=1))[0]
    low, high = columns.min(), columns.max()
    third = (high - low) / 3
    central = np.zeros_like(footprint)
    central[int(np.floor(low + third)) : int(np.ceil(high - third)) + 1] = True
    return footprint & central


def heights_from_columns(height: NDArray[np.floating], footprint: NDArray[np.bool_], depth: NDArray[np.floating]) -> BodyHeights:
    """Mean height of the columns in the anterior, middle and posterior zone of a body.

    Args:
        height: (X, Y) height of the body in every column, mm.
        footprint: (X, Y) columns that belong to the body.
        depth: (X, Y) position between the posterior (0) and the anterior wall (1).

    Returns:
        Heights in mm; NaN for a zone without columns.
    """
    central = central_third(footprint)

    def mean_between(start: float, stop: float) -> float:
        zone = central & (depth >= start) & (depth <= stop)
        return float(height[zone].mean()) if zone.any() else float("nan")

    return BodyHeights(*(mean_between(*ZONES[name]) for name in ("anterior", "middle", "posterior")))
