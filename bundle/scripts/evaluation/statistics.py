# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests for data in which several scans may come from one patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """Estimate with its 95 % bootstrap interval and sample size.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
        n: cases, fractures, vertebrae or patients that it is computed from.
        patients: patients that they come from.
        left_out: cases without a value, such as a distance to an empty mask.
    """

    value: float
    low: float
    high: float
    n: int
    patients: int
    left_out: int = 0


class Bootstrap:
    """Percentile bootstrap that resamples whole patients.

    Args:
        patients: patient of every observation.
        samples: resamples.
        seed: seed of the resamples, which all statistics of one object share.
    """

    def __init__(self, patients: Sequence[str], samples: int = 2000, seed: int = 0) -> None:
        self.names, self.index = np.unique(np.asarray(patients, str), return_inverse=True)
        n = len(self.names)
        rng = np.random.default_rng(seed)
        # Multiplicity of each patient in each resample.
        self.weights = rng.multinomial(n, np.full(n, 1 / n), size=samples) if n else np.zeros((samples, 0), int)

    def _sums(self, values: NDArray) -> NDArray:
        return np.bincount(self.index, weights=values, minlength=len(self.names))

    def ratios(self, numerator: NDArray, denominator: NDArray) -> tuple[float, NDArray]:
        """Ratio of two sums over all observations, and over each resample (NaN for a denominator of 0)."""
        top, bottom = self._sums(np.asarray(numerator, float)), self._sums(np.asarray(denominator, float))
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = top.sum() / bottom.sum() if bottom.sum() else float("nan")
            return float(whole), (self.weights @ top) / (self.weights @ bottom)

    def ratio(self, numerator: NDArray, denominator: NDArray) -> Estimate:
        """Estimate of a ratio of sums, such as a sensitivity."""
        value, resampled = self.ratios(numerator, denominator)
        counted = np.asarray(denominator, float) > 0
        return self.estimate(value, resampled, int(np.sum(denominator)), len(np.unique(self.index[counted])))

    def mean(self, values: NDArray) -> Estimate:
        """Estimate of the mean over observations; NaN is left out and counted."""
        values = np.asarray(values, float)
        present = np.isfinite(values)
        value, resampled = self.ratios(np.where(present, values, 0.0), present)
        estimate = self.estimate(value, resampled, int(present.sum()), len(np.unique(self.index[present])))
        return replace(estimate, left_out=int((~present).sum()))

    def statistic(self, function: Callable[[NDArray], float], n: int) -> Estimate:
        """Estimate of any function of the multiplicities of the observations in a resample."""
        value = function(np.ones(len(self.index), int))
        resampled = np.array([function(w[self.index]) for w in self.weights])
        return self.estimate(value, resampled, n, len(self.names))

    @staticmethod
    def estimate(value: float, resampled: NDArray, n: int, patients: int) -> Estimate:
        """Estimate of a value and its resamples; resamples that are NaN are left out."""
        resampled = resampled[np.isfinite(resampled)]
        if not np.isfinite(value) or not resampled.size:
            return Estimate(float("nan"), float("nan"), float("nan"), n, patients)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return Estimate(float(value), float(low), float(high), n, patients)


def auc(scores: NDArray, positive: NDArray[np.bool_], weights: NDArray | None = None) -> float:
    """Area under the ROC curve as the probability that a positive scores above a negative, ties counted half.

    See Hanley and McNeil 1982 (doi:10.1148/radiology.143.1.7063747). NaN without positives or without negatives.

    Args:
        scores: score of every observation (N,).
        positive: true class of every observation (N,).
        weights: multiplicity of every observation (N,); None for 1.
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    p, q = scores[positive], scores[~positive]
    wins = (p[:, None] > q[None]) + 0.5 * (p[:, None] == q[None])
    pairs = weights[positive][:, None] * weights[~positive][None]
    return float((wins * pairs).sum() / pairs.sum()) if pairs.sum() else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for multiple comparisons by Holm's step-down method (1979), which controls the family-wise error."""
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[k], 1.0))
        adjusted[k] = largest
    return adjusted


def patient_means(values: Sequence[float] | NDArray, patients: Sequence[str]) -> NDArray[np.float64]:
    """Mean of each patient's values, sorted by the name of the patient."""
    groups: dict[str, list[float]] = defaultdict(list)
    for patient, value in zip(patients, values, strict=True):
        groups[patient].append(float(value))
    return np.array([np.mean(groups[p]) for p in sorted(groups)])


def paired_test(differences: NDArray) -> float:
    """Two-sided p value of Wilcoxon's signed rank test (doi:10.2307/3001968) on one difference per patient; 1 for all 0."""
    from scipy.stats import wilcoxon

    differences = np.asarray(differences, float)
    return float(wilcoxon(differences).pvalue) if np.any(differences != 0) else 1.0
