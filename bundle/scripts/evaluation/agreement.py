# SPDX-License-Identifier: Apache-2.0
"""Agreement of two gradings, and of two measurements of one quantity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import Bootstrap, Estimate, widened

GRADES = 4
LIMITS = 1.96  # standard deviations
AGREEMENT_DEFINITIONS = {
    "weighted kappa": "agreement of measured and reference grades beyond chance, linear weights (Cohen 1968, doi:10.1037/h0026256)",
    "limits of agreement": "mean difference -+ 1.96 standard deviations (Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8)",
}


def confusion(reference: ArrayLike, measured: ArrayLike, classes: int = GRADES) -> NDArray[np.int64]:
    """Number of vertebrae (classes, classes) by reference grade (row) and measured grade (column).

    Raises:
        ValueError: for grades that are not 0 to ``classes`` - 1.
    """
    rows, columns = np.asarray(reference, int), np.asarray(measured, int)
    for grades in (rows, columns):
        if grades.size and (grades.min() < 0 or grades.max() >= classes):
            raise ValueError(f"grades {grades.min()} to {grades.max()}: must be 0 to {classes - 1}")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def kappa_of(table: NDArray) -> NDArray[np.float64]:
    """Weighted kappa (...,) of confusion tables (..., K, K), linear weights; NaN where both gradings have one class only."""
    classes = table.shape[-1]
    weights = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes)))
    total = table.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = table.sum(axis=-1)[..., :, None] * table.sum(axis=-2)[..., None, :] / total[..., None, None]
        return 1 - (weights * table).sum(axis=(-2, -1)) / (weights * expected).sum(axis=(-2, -1))


def weighted_kappa(reference: ArrayLike, measured: ArrayLike, classes: int = GRADES) -> float:
    """Cohen's kappa with linear weights of two gradings (N,)."""
    return float(kappa_of(confusion(reference, measured, classes).astype(float)))


def grade_agreement(
    reference: Sequence[int], measured: Sequence[int], patients: Sequence[str], samples: int, seed: int
) -> dict[str, Estimate]:
    """Weighted kappa and the fraction of equal grades, over patients.

    Args:
        reference: reference grade of every vertebra (N,).
        measured: measured grade (N,).
        patients: patient of every vertebra.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """
    bootstrap, one, other = Bootstrap(patients, samples, seed), np.asarray(reference, int), np.asarray(measured, int)
    cells = np.eye(GRADES**2)[one * GRADES + other]

    def kappa(of: Bootstrap) -> Estimate:
        value, values = (kappa_of(a.reshape(*a.shape[:-1], GRADES, GRADES)) for a in of.totals(cells))
        return of.estimate(float(value), values, len(one), len(bootstrap.names))

    # Neither resamples of patients nor of vertebrae may be narrower than the other; few patients have no interval.
    over_patients, single = kappa(bootstrap), kappa(Bootstrap([str(k) for k in range(len(one))], samples, seed))
    if np.isfinite(over_patients.low):
        over_patients = widened(over_patients, (single.low, single.high))
    equal = np.asarray(one == other)
    return {
        "weighted kappa (linear)": over_patients,
        "equal grade": bootstrap.proportion(equal, np.ones(len(one))),
        "within one grade": bootstrap.proportion(np.abs(one - other) <= 1, np.ones(len(one))),
    }


def limits_of_agreement(
    difference: Sequence[float], patients: Sequence[str], samples: int, seed: int, name: str, unit: str
) -> dict[str, Estimate]:
    """Mean difference, mean absolute difference and limits of agreement, over patients.

    Args:
        difference: measurement less reference of every vertebra (N,).
        patients: patient of every vertebra.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
        name: name of the quantity.
        unit: its unit.
    """
    bootstrap, values = Bootstrap(patients, samples, seed), np.asarray(difference, float)
    whole, resampled = bootstrap.totals(np.stack([np.ones(len(values)), values, values**2], axis=1))

    def limit(sums: NDArray, sign: int) -> NDArray:
        n, first, second = np.moveaxis(sums, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return first / n + sign * LIMITS * np.sqrt(np.maximum(second - first**2 / n, 0) / (n - 1))

    rows = {
        f"{name}: mean difference ({unit})": bootstrap.mean(values),
        f"{name}: mean absolute difference ({unit})": bootstrap.mean(np.abs(values)),
    }
    for sign, end in ((-1, "lower"), (1, "upper")):
        value = float(limit(whole, sign)) if len(values) > 1 else float("nan")
        estimate = bootstrap.estimate(value, limit(resampled, sign), len(values), len(bootstrap.names))
        rows[f"{name}: {end} limit of agreement ({unit})"] = estimate
    return rows
