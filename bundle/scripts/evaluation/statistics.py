# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests that respect that several scans may come from one patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval and what it rests on.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
        n: cases, fractures, vertebrae or patients that it is made of.
        patients: patients that they come from.
        left_out: cases that could not enter, such as a distance to an empty mask.
    """

    value: float
    low: float
    high: float
    n: int
    patients: int
    left_out: int = 0


class Bootstrap:
    """Percentile bootstrap that draws whole patients.

    Args:
        patients: patient of every observation.
        samples: resamples.
        seed: of the draws; all statistics of one object use the same draws.
    """

    def __init__(self, patients: Sequence[str], samples: int = 2000, seed: int = 0) -> None:
        self.names, self.index = np.unique(np.asarray(patients, str), return_inverse=True)
        n = len(self.names)
        rng = np.random.default_rng(seed)
        # How often each patient is drawn: resampling, written as weights.
        self.weights = rng.multinomial(n, np.full(n, 1 / n), size=samples) if n else np.zeros((samples, 0), int)

    def _sums(self, values: NDArray) -> NDArray:
        return np.bincount(self.index, weights=values, minlength=len(self.names))

    def ratios(self, numerator: NDArray, denominator: NDArray) -> tuple[float, NDArray]:
        """Ratio of two sums over all observations, and over each resample (NaN where a resample has no denominator)."""
        top, bottom = self._sums(np.asarray(numerator, float)), self._sums(np.asarray(denominator, float))
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = top.sum() / bottom.sum() if bottom.sum() else float("nan")
            return float(whole), (self.weights @ top) / (self.weights @ bottom)

    def ratio(self, numerator: NDArray, denominator: NDArray) -> Estimate:
        """Estimate of a ratio of sums, such as a sensitivity."""
        value, drawn = self.ratios(numerator, denominator)
        counted = np.asarray(denominator, float) > 0
        return self.estimate(value, drawn, int(np.sum(denominator)), len(np.unique(self.index[counted])))

    def mean(self, values: NDArray) -> Estimate:
        """Estimate of the mean over observations; those that are NaN are left out and counted."""
        values = np.asarray(values, float)
        present = np.isfinite(values)
        value, drawn = self.ratios(np.where(present, values, 0.0), present)
        estimate = self.estimate(value, drawn, int(present.sum()), len(np.unique(self.index[present])))
        return Estimate(**{**estimate.__dict__, "left_out": int((~present).sum())})

    def statistic(self, function: Callable[[NDArray], float], n: int) -> Estimate:
        """Estimate of any function of the number of times each observation is drawn."""
        value = function(np.ones(len(self.index), int))
        drawn = np.array([function(w[self.index]) for w in self.weights])
        return self.estimate(value, drawn, n, len(self.names))

    @staticmethod
    def estimate(value: float, drawn: NDArray, n: int, patients: int) -> Estimate:
        """Put a value and its resamples together; resamples that are NaN are left out."""
        drawn = drawn[np.isfinite(drawn)]
        if not np.isfinite(value) or not drawn.size:
            return Estimate(float("nan"), float("nan"), float("nan"), n, patients)
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Estimate(float(value), float(low), float(high), n, patients)


def auc(scores: NDArray, positive: NDArray[np.bool_], weights: NDArray | None = None) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half; NaN without both kinds."""
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    p, q = scores[positive], scores[~positive]
    wins = (p[:, None] > q[None]) + 0.5 * (p[:, None] == q[None])
    pairs = weights[positive][:, None] * weights[~positive][None]
    return float((wins * pairs).sum() / pairs.sum()) if pairs.sum() else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for several comparisons (Holm 1979): the family-wise error stays below the level."""
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[k], 1.0))
        adjusted[k] = largest
    return adjusted


def paired_test(differences: NDArray) -> float:
    """Two-sided p value of Wilcoxon's signed rank test on one difference per patient; 1 when all are 0."""
    from scipy.stats import wilcoxon

    differences = np.asarray(differences, float)
    return float(wilcoxon(differences).pvalue) if np.any(differences != 0) else 1.0
