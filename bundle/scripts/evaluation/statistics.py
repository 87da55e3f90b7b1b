# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests for data in which several scans may come from one patient.

Proportions and areas under the curve have the wider, at each end, of two intervals: the bootstrap over patients, which has no width
at 0 and 1 and is too narrow for few patients, and a score interval of independent observations, which neglects that observations
of one patient are alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
AUC_BLOCK = 200  # resamples whose ranks are computed at a time


@dataclass(frozen=True)
class Estimate:
    """Estimate with its 95 % interval and sample size.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
        n: cases, fractures, vertebrae or patients that it is computed from.
        patients: patients that they come from.
        left_out: cases without a value, such as a distance to an empty mask.
        events: numerator of a proportion of ``n``, such as the detected fractures; None for other estimates.
    """

    value: float
    low: float
    high: float
    n: int
    patients: int
    left_out: int = 0
    events: int | None = None


def wilson(events: float, n: float) -> tuple[float, float]:
    """Score interval (95 %) of ``events`` of ``n`` independent observations; it has a width also at 0 and at 1.

    Wilson 1927 (doi:10.1080/01621459.1927.10502953), as recommended by Brown et al. 2001 (doi:10.1214/ss/1009213286). NaN without
    observations.
    """
    if n <= 0:
        return float("nan"), float("nan")
    share, width = events / n, Z**2 / n
    centre = (share + width / 2) / (1 + width)
    half = Z / (1 + width) * np.sqrt(share * (1 - share) / n + width / (4 * n))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def auc_interval(value: float, positives: int, negatives: int) -> tuple[float, float]:
    """Score interval (95 %) of an area under the ROC curve of independent observations; it has a width also at 1.

    Method 5 of Newcombe 2006 (doi:10.1002/sim.2324): the areas from which ``value`` is 1.96 standard errors of Hanley and McNeil
    away. NaN without positives or without negatives.

    Args:
        value: area under the curve.
        positives: number of positive observations.
        negatives: number of negative observations.
    """
    from scipy.optimize import brentq

    if not (np.isfinite(value) and positives and negatives):
        return float("nan"), float("nan")
    surplus = (positives + negatives) / 2 - 1

    def excess(area: float) -> float:
        """Squared distance from the value less that of 1.96 standard errors."""
        shape = 1 + surplus * ((1 - area) / (2 - area) + area / (1 + area))
        return (value - area) ** 2 - Z**2 * area * (1 - area) * shape / (positives * negatives)

    low = 0.0 if value <= 0 else brentq(excess, 0, min(value, 1 - 1e-9))
    high = 1.0 if value >= 1 else brentq(excess, max(value, 1e-9), 1)
    return float(low), float(high)


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

    def proportion(self, numerator: NDArray, denominator: NDArray) -> Estimate:
        """Estimate of a proportion of counts, such as a sensitivity, with the wider of two intervals at each end."""
        estimate = self.ratio(numerator, denominator)
        events = round(float(np.sum(numerator)))
        return replace(widened(estimate, wilson(events, estimate.n)), events=events)

    def mean(self, values: NDArray) -> Estimate:
        """Estimate of the mean over observations; NaN is left out and counted."""
        values = np.asarray(values, float)
        present = np.isfinite(values)
        value, resampled = self.ratios(np.where(present, values, 0.0), present)
        estimate = self.estimate(value, resampled, int(present.sum()), len(np.unique(self.index[present])))
        return replace(estimate, left_out=int((~present).sum()))

    def totals(self, values: NDArray) -> tuple[NDArray, NDArray]:
        """Sums (K,) of the columns of values (N, K) over all observations, and (samples, K) over each resample."""
        sums = np.stack([self._sums(column) for column in np.asarray(values, float).T], axis=-1)
        return sums.sum(axis=0), self.weights @ sums

    def auc(self, scores: NDArray, positive: NDArray[np.bool_]) -> Estimate:
        """Estimate of the function ``auc``, with the wider of two intervals at each end."""
        positive = np.asarray(positive, bool)
        values, rank = np.unique(np.asarray(scores, float), return_inverse=True)
        shape = len(self.names), max(len(values), 1)
        counts = [
            np.bincount(self.index[c] * shape[1] + rank[c], minlength=shape[0] * shape[1]).reshape(shape).astype(float)
            for c in (positive, ~positive)
        ]

        def area(weights: NDArray) -> NDArray:
            p, q = (weights @ c for c in counts)
            with np.errstate(invalid="ignore", divide="ignore"):
                return (p * (np.cumsum(q, axis=1) - q / 2)).sum(axis=1) / (p.sum(axis=1) * q.sum(axis=1))

        # Products of floats are computed by BLAS, those of integers are not.
        blocks = [area(self.weights[k : k + AUC_BLOCK].astype(float)) for k in range(0, len(self.weights), AUC_BLOCK)]
        estimate = self.estimate(auc(scores, positive), np.concatenate(blocks), len(positive), len(self.names))
        return widened(estimate, auc_interval(estimate.value, int(positive.sum()), int((~positive).sum())))

    @staticmethod
    def estimate(value: float, resampled: NDArray, n: int, patients: int) -> Estimate:
        """Estimate of a value and its resamples; resamples that are NaN are left out."""
        resampled = resampled[np.isfinite(resampled)]
        if not np.isfinite(value) or not resampled.size:
            return Estimate(float("nan"), float("nan"), float("nan"), n, patients)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return Estimate(float(value), float(low), float(high), n, patients)


def widened(estimate: Estimate, interval: tuple[float, float]) -> Estimate:
    """Estimate with the wider of its interval and another at each end."""
    if not np.isfinite(estimate.value):
        return estimate
    return replace(estimate, low=float(np.fmin(estimate.low, interval[0])), high=float(np.fmax(estimate.high, interval[1])))


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
