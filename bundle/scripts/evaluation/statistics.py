# SPDX-License-Identifier: Apache-2.0
"""Estimates with intervals, and tests, for data in which several scans or vertebrae may come from one patient.

Proportions have a score interval on the effective number of observations, and counts per scan one of overdispersed Poisson counts
(``intervals``); both have a width for any n. Areas under the curve have at each end the wider of the bootstrap over patients and a
score interval. All others have the bootstrap alone, which is far too narrow for few patients: below ``MIN_PATIENTS`` there is no
interval, and none where all resamples are equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .intervals import auc_interval, clustered_wilson, count_interval, wilson

__all__ = [
    "Bootstrap",
    "Estimate",
    "auc",
    "auc_interval",
    "holm",
    "interval_text",
    "paired_test",
    "patient_means",
    "widened",
    "wilson",
]
AUC_BLOCK = 200  # resamples whose ranks are computed at a time
# Patients below which the percentile bootstrap is left out: of ten normal values it holds 90 % in place of 95 %, of five 84 %.
MIN_PATIENTS = 10
TOO_FEW, NO_SPREAD, UNKNOWN = "n too small", "no spread", "-"


@dataclass(frozen=True)
class Estimate:
    """Estimate with its 95 % interval and sample size.

    Attributes:
        value: the estimate.
        low: lower end of the interval; NaN without one, see ``interval_text``.
        high: upper end.
        n: cases, fractures, vertebrae or patients that it is computed from.
        patients: patients that they come from.
        left_out: cases without a value, such as a distance to an empty mask.
        events: numerator, such as the detected fractures of ``n``, or the false positives in ``n`` scans; None for other estimates.
        per: unit of ``n`` for a number of events per unit, such as "scan"; "" for a proportion of ``n``.
    """

    value: float
    low: float
    high: float
    n: int
    patients: int
    left_out: int = 0
    events: int | None = None
    per: str = ""


def interval_text(estimate: Estimate, digits: int = 3, factor: float = 1.0, sign: str = "") -> str:
    """Interval as text, such as "0.741 to 1.000", or the reason for which there is none.

    Args:
        estimate: estimate.
        digits: decimal places.
        factor: 100 for per cent.
        sign: "+" writes both signs.
    """
    if not np.isfinite(estimate.value):
        return UNKNOWN
    if not (np.isfinite(estimate.low) and np.isfinite(estimate.high)):
        return TOO_FEW if estimate.patients < MIN_PATIENTS else NO_SPREAD
    return f"{factor * estimate.low:{sign}.{digits}f} to {factor * estimate.high:{sign}.{digits}f}"


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
        """Estimate of a proportion of counts, such as a sensitivity, with ``clustered_wilson`` as interval."""
        events, totals = (self._sums(np.asarray(v, float)) for v in (numerator, denominator))
        n, patients = round(float(totals.sum())), int((totals > 0).sum())
        if not n:
            return Estimate(float("nan"), float("nan"), float("nan"), 0, 0, events=0)
        return Estimate(float(events.sum() / n), *clustered_wilson(events, totals), n, patients, events=round(float(events.sum())))

    def count(self, values: NDArray, per: str = "scan") -> Estimate:
        """Estimate of a number of events per observation, such as false positives per scan, with ``count_interval``."""
        values = np.asarray(values, float)
        events, totals = self._sums(values), self._sums(np.ones(len(values)))
        value = float(events.sum() / totals.sum()) if totals.sum() else float("nan")
        interval = count_interval(events, totals)
        return Estimate(value, *interval, len(values), len(self.names), events=round(float(events.sum())), per=per)

    def mean(self, values: NDArray) -> Estimate:
        """Estimate of the mean over observations; NaN is left out and counted."""
        values = np.asarray(values, float)
        present = np.isfinite(values)
        value, resampled = self.ratios(np.where(present, values, 0.0), present)
        estimate = self.estimate(value, resampled, int(present.sum()), len(np.unique(self.index[present])))
        return replace(estimate, left_out=int((~present).sum()))

    def equal_within(self, differences: NDArray, alpha: float = 0.05) -> float:
        """Smallest margin within which paired differences are shown to be equal; NaN for too few patients.

        Two one-sided tests (Schuirmann 1987, doi:10.1007/BF01068419) at level ``alpha`` reject a mean difference outside a margin
        where the interval of 1 - 2 ``alpha`` lies inside it; the margin is the larger end of that interval.

        Args:
            differences: one per observation (N,), without NaN.
            alpha: level of each test.
        """
        if len(self.names) < MIN_PATIENTS:
            return float("nan")
        _, resampled = self.ratios(np.asarray(differences, float), np.ones(len(differences)))
        return float(np.abs(np.percentile(resampled, [100 * alpha, 100 * (1 - alpha)])).max())

    def totals(self, values: NDArray) -> tuple[NDArray, NDArray]:
        """Sums (K,) of the columns of values (N, K) over all observations, and (samples, K) over each resample."""
        sums = np.stack([self._sums(column) for column in np.asarray(values, float).T], axis=-1)
        return sums.sum(axis=0), self.weights @ sums

    def areas(self, scores: NDArray, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Function ``auc`` of every resample (samples,); NaN where one has a single class."""
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
        return np.concatenate([area(self.weights[k : k + AUC_BLOCK].astype(float)) for k in range(0, len(self.weights), AUC_BLOCK)])

    def auc(self, scores: NDArray, positive: NDArray[np.bool_]) -> Estimate:
        """Estimate of the function ``auc``, with the wider of two intervals at each end."""
        positive = np.asarray(positive, bool)
        values = self.areas(scores, positive)
        estimate = self.estimate(auc(scores, positive), values, len(positive), len(self.names), min_patients=1)
        return widened(estimate, auc_interval(estimate.value, int(positive.sum()), int((~positive).sum())))

    @staticmethod
    def estimate(value: float, resampled: NDArray, n: int, patients: int, min_patients: int = MIN_PATIENTS) -> Estimate:
        """Estimate of a value and its resamples; resamples that are NaN are left out.

        There is no interval for fewer than ``min_patients`` patients, and none where all resamples are equal.
        """
        resampled, nan = resampled[np.isfinite(resampled)], float("nan")
        if not np.isfinite(value) or not resampled.size:
            return Estimate(nan, nan, nan, n, patients)
        low, high = np.percentile(resampled, [2.5, 97.5])
        if patients < min_patients or high - low <= 1e-12:
            return Estimate(float(value), nan, nan, n, patients)
        return Estimate(float(value), float(low), float(high), n, patients)


def widened(estimate: Estimate, interval: tuple[float, float]) -> Estimate:
    """Estimate with the wider of its interval and another at each end; without one of its own, the other."""
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
