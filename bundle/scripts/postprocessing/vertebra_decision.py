# SPDX-License-Identifier: Apache-2.0
"""One decision per vertebra: the calibrated mean of the fracture probability over its body."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from .vertebra_instances import VertebraInstances

EPSILON = 1e-4  # of a probability, before its logit


def calibrate(probability: float, calibration: Sequence[float]) -> float:
    """Probability on the scale of the reference: logit(p) * slope + intercept, mapped back.

    Args:
        probability: 0 to 1; NaN is returned unchanged.
        calibration: slope and intercept.
    """
    slope, intercept = calibration
    if math.isnan(probability):
        return probability
    p = min(max(probability, EPSILON), 1 - EPSILON)
    logit = slope * math.log(p / (1 - p)) + intercept
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


def check_calibration(calibration: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of a calibration.

    Raises:
        ValueError: unless they are two finite numbers, the first above 0.
    """
    values = list(calibration) if isinstance(calibration, Iterable) and not isinstance(calibration, str) else [calibration]
    if len(values) != 2 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values) or values[0] <= 0:
        raise ValueError(f"calibration={calibration}: must be [slope, intercept] with a slope above 0; [1, 0] changes nothing")
    return float(values[0]), float(values[1])


@dataclass
class VertebraDecisions:
    """Vertebrae with their fracture probabilities.

    Attributes:
        instances: vertebrae in a box of the working grid.
        probability: calibrated probability of a fracture by number of the vertebra.
        threshold: probability from which a vertebra is fractured.
        raw: probability before calibration, by number.
    """

    instances: VertebraInstances
    probability: dict[int, float]
    threshold: float
    raw: dict[int, float] = field(default_factory=dict)

    @property
    def fractured(self) -> list[int]:
        """Numbers of the fractured vertebrae."""
        return [n for n, p in self.probability.items() if p >= self.threshold]

    def mask(self) -> NDArray[np.bool_]:
        """Voxels (R, A, S) of the fractured vertebrae, body and posterior elements."""
        lookup = np.zeros(256, bool)
        lookup[self.fractured] = True
        return lookup[self.instances.labels]


def decide(
    instances: VertebraInstances,
    fracture: NDArray,
    body: NDArray | None,
    threshold: float = 0.5,
    calibration: Sequence[float] = (1.0, 0.0),
) -> VertebraDecisions:
    """Decide for every vertebra.

    The aggregate is the mean of the fracture probability over the voxels of the body, weighted by the probability of body: the edge
    of a body, where a network is unsure of both, counts less. Posterior elements, joints and discs do not count.

    Args:
        instances: vertebrae.
        fracture: probabilities of fracture (R, A, S).
        body: probabilities of vertebral body (R, A, S); None weights all voxels of a body alike.
        threshold: probability from which a vertebra is fractured.
        calibration: slope and intercept, see ``calibrate``.
    """
    raw: dict[int, float] = {}
    for number, box in enumerate(find_objects(instances.labels) if instances.labels.size else [], 1):
        if box is None:
            continue
        inside = (instances.labels[box] == number) & instances.bodies[box]
        p = fracture[box][inside].astype(np.float64)
        weight = np.ones(len(p)) if body is None else np.maximum(body[box][inside].astype(np.float64), 1e-3)
        raw[number] = float((p * weight).sum() / weight.sum()) if len(p) else float("nan")
    calibrated = {n: calibrate(p, calibration) for n, p in raw.items()}
    return VertebraDecisions(instances, calibrated, threshold, raw)
