# SPDX-License-Identifier: Apache-2.0
"""Calibration of probabilities: reliability, expected calibration error, Brier score, and a logistic recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10  # of equal width
PROBABILITY_FLOOR = 1e-4  # before the logit, as in inference
# Standard deviation of a normal prior about no change (slope 1, intercept 0), the scale of Gelman et al. 2008
# (doi:10.1214/08-AOAS191): of no weight with dozens of vertebrae of each class, and finite where the classes are separated.
PRIOR_SD = 2.5
IDENTITY = (1.0, 0.0)
CALIBRATION_DEFINITIONS = {
    "ece": f"expected calibration error: mean of |mean probability - fraction of fractures| over {BINS} bins of equal width, "
    "weighted by their number of vertebrae (Guo et al. 2017, arXiv:1706.04599); above 0 by chance for few vertebrae",
    "brier": "mean squared difference of probability and class (Brier 1950)",
    "mean probability - fraction of fractures": "calibration in the large: above 0 for probabilities that are too high",
}


@dataclass(frozen=True)
class ReliabilityBin:
    """Vertebrae whose probability lies in one bin.

    Attributes:
        low: lower end of the bin.
        high: upper end.
        n: number of vertebrae.
        fractured: number of fractured ones among them.
        mean_probability: mean of their probabilities; NaN for none.
    """

    low: float
    high: float
    n: int
    fractured: int
    mean_probability: float


def _checked(p: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    probability, classes = np.asarray(p, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    if probability.shape != classes.shape:
        raise ValueError(f"{probability.size} probabilities and {classes.size} classes; there must be one class for each")
    if not (np.isfinite(probability).all() and (probability >= 0).all() and (probability <= 1).all()):
        raise ValueError("probabilities contain NaN or values outside 0 to 1; leave such vertebrae out")
    if not np.isin(classes, (0, 1)).all():
        raise ValueError("classes must be 0 (intact) or 1 (fractured); leave unknown vertebrae out")
    return probability, classes


def bin_of(p: ArrayLike, bins: int = BINS) -> NDArray[np.int64]:
    """Bin (N,) of every probability, 0 to ``bins`` - 1; a border belongs to the upper bin, 1 to the last."""
    return np.minimum((np.asarray(p, float) * bins + 1e-9).astype(int), bins - 1)


def reliability(p: ArrayLike, y: ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """Reliability diagram as a table.

    Args:
        p: probabilities (N,).
        y: classes (N,), 1 fractured.
        bins: number of bins of equal width.

    Raises:
        ValueError: for values that are no probability or no class.
    """
    probability, classes = _checked(p, y)
    index = bin_of(probability, bins)
    n = np.bincount(index, minlength=bins)
    fractured, total = (np.bincount(index, weights=w, minlength=bins) for w in (classes, probability))
    means = [float(t / k) if k else float("nan") for t, k in zip(total, n, strict=True)]
    return [ReliabilityBin(k / bins, (k + 1) / bins, int(n[k]), int(fractured[k]), means[k]) for k in range(bins)]


def calibration_error(p: ArrayLike, y: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error; NaN without observations. Arguments as in ``reliability``."""
    table = [b for b in reliability(p, y, bins) if b.n]
    total = sum(b.n for b in table)
    return sum(abs(b.mean_probability * b.n - b.fractured) for b in table) / total if total else float("nan")


def brier_score(p: ArrayLike, y: ArrayLike) -> float:
    """Mean squared difference of probability and class; NaN without observations."""
    probability, classes = _checked(p, y)
    return float(np.mean((probability - classes) ** 2)) if classes.size else float("nan")


def logit(p: ArrayLike) -> NDArray[np.float64]:
    """Log odds of probabilities, which are limited to ``PROBABILITY_FLOOR`` and 1 - ``PROBABILITY_FLOOR``."""
    limited = np.clip(np.asarray(p, np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return np.log(limited) - np.log1p(-limited)


def expit(x: ArrayLike) -> NDArray[np.float64]:
    """Probability of log odds."""
    return 0.5 * (1 + np.tanh(np.asarray(x, np.float64) / 2))


def calibrated(p: ArrayLike, calibration: Sequence[float]) -> NDArray[np.float64]:
    """Probabilities after logit(p_calibrated) = slope * logit(p) + intercept.

    Args:
        p: probabilities before, of any shape.
        calibration: slope and intercept.
    """
    slope, intercept = calibration
    return expit(slope * logit(p) + intercept)


def uncalibrated(p: ArrayLike, calibration: Sequence[float]) -> NDArray[np.float64]:
    """Probabilities before a calibration, the inverse of ``calibrated``.

    Raises:
        ValueError: for a slope of 0 or less, which has no inverse that keeps the order.
    """
    slope, intercept = calibration
    if not slope > 0:
        raise ValueError(f"calibration {list(calibration)}: the slope must be above 0")
    return np.asarray(p, np.float64) if (slope, intercept) == IDENTITY else expit((logit(p) - intercept) / slope)


def fit_calibration(p: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """Fit slope and intercept of logit(p_calibrated) = slope * logit(p) + intercept by penalised maximum likelihood.

    Logistic recalibration (Cox 1958, doi:10.1093/biomet/45.3-4.562; Platt scaling of log odds), with a weak normal prior, see
    ``PRIOR_SD``; the objective is convex, and Newton's method with halved steps finds its only minimum.

    Args:
        p: probabilities (N,).
        y: classes (N,), 1 fractured.
        weights: multiplicity of every observation (N,); None for 1.

    Returns:
        Slope and intercept. A slope of 0 or less means that the probabilities rank fractures no better than chance.

    Raises:
        ValueError: for values that are no probability or no class, and without both classes.
    """
    probability, classes = _checked(p, y)
    count = np.ones(classes.size) if weights is None else np.asarray(weights, np.float64).ravel()
    if not (count[classes == 1].sum() > 0 and count[classes == 0].sum() > 0):
        raise ValueError(
            f"{int(classes.sum())} fractured and {int(classes.size - classes.sum())} intact vertebrae; a calibration needs both"
        )
    design = np.stack([logit(probability), np.ones(classes.size)], axis=1)
    start, precision = np.array(IDENTITY), np.eye(2) / PRIOR_SD**2

    def objective(at: NDArray) -> float:
        x = design @ at
        return float(count @ (np.logaddexp(0, x) - classes * x) + 0.5 * (at - start) @ precision @ (at - start))

    at, value = start.copy(), objective(start)
    for _ in range(100):
        fitted = expit(design @ at)
        gradient = design.T @ (count * (fitted - classes)) + precision @ (at - start)
        hessian = (design * (count * fitted * (1 - fitted))[:, None]).T @ design + precision
        step = np.linalg.solve(hessian, gradient)
        while (new := objective(at - step)) > value and np.abs(step).max() > 1e-12:
            step = step / 2
        at, value = at - step, min(new, value)
        if np.abs(step).max() < 1e-9:
            break
    return float(at[0]), float(at[1])
