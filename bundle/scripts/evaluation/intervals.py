# SPDX-License-Identifier: Apache-2.0
"""95 % intervals of proportions, counts and areas under the curve in closed form, which have a width for any n.

Vertebrae and scans of one patient resemble each other. A proportion therefore has the score interval of Wilson on an *effective*
number of observations: their number divided by the design effect, which the scatter of the patients determines (Rao and Scott
1992, doi:10.2307/2532311; for surveys Korn and Graubard 1998, Survey Methodology 24:193, and Dean and Pagano 2015,
doi:10.1093/jssam/smv024). With one observation per patient it is the interval of Wilson.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
NAN = float("nan")


def wilson(events: float, n: float) -> tuple[float, float]:
    """Score interval (95 %) of ``events`` of ``n`` independent observations; it has a width also at 0 and at 1.

    Wilson 1927 (doi:10.1080/01621459.1927.10502953), as recommended by Brown et al. 2001 (doi:10.1214/ss/1009213286). NaN without
    observations.
    """
    if n <= 0:
        return NAN, NAN
    share, width = events / n, Z**2 / n
    centre = (share + width / 2) / (1 + width)
    half = Z / (1 + width) * np.sqrt(share * (1 - share) / n + width / (4 * n))
    # The ends at 0 and 1 are exact, whatever the rounding.
    low = 0.0 if share <= 0 else max(float(centre - half), 0.0)
    return low, 1.0 if share >= 1 else min(float(centre + half), 1.0)


def effective_n(events: ArrayLike, totals: ArrayLike) -> float:
    """Effective number of observations of a proportion whose observations come from patients.

    It lies between the number of all observations, which holds when patients do not differ, and n^2 / sum(n_i^2), which holds when
    all observations of a patient are equal (Kish 1965, ISBN 0471489006). The quantiles of Student's t distribution account for the
    few patients that the design effect is estimated from. Where all observations are equal, no scatter is seen, and the design
    effect is 1.

    Args:
        events: number of events of every patient (K,).
        totals: number of observations of every patient (K,); patients without any are left out.
    """
    from scipy.stats import t

    m = np.asarray(totals, float)
    x, m = np.asarray(events, float)[m > 0], m[m > 0]
    patients, n = len(m), float(m.sum())
    if patients == 0:
        return 0.0
    fewest = n**2 / float((m**2).sum())
    if patients < 2 or n <= fewest:
        return fewest
    share, effect = float(x.sum()) / n, 1.0
    if 0 < share < 1:
        between = patients / (patients - 1) * float(((x - share * m) ** 2).sum()) / n**2
        effect = max(between * (n - 1) / (share * (1 - share)), 1.0)
    factor = float((t.ppf(0.975, n - 1) / t.ppf(0.975, patients - 1)) ** 2)
    return float(np.clip(factor * n / effect, fewest, n))


def clustered_wilson(events: ArrayLike, totals: ArrayLike) -> tuple[float, float]:
    """Score interval (95 %) of a proportion of observations of patients: ``wilson`` of ``effective_n``; arguments as there."""
    x, m = np.asarray(events, float), np.asarray(totals, float)
    n = float(m.sum())
    if n <= 0:
        return NAN, NAN
    effective = effective_n(x, m)
    return wilson(float(x.sum()) / n * effective, effective)


def count_interval(events: ArrayLike, totals: ArrayLike) -> tuple[float, float]:
    """Interval (95 %) of a number of events per scan; it has a width also without an event.

    Exact for Poisson counts (Garwood 1936, doi:10.1093/biomet/28.3-4.437), scaled by the dispersion between patients where that is
    above 1 (McCullagh and Nelder 1989, ISBN 0412317605, 6.2.3). NaN without scans.

    Args:
        events: number of events of every patient (K,).
        totals: number of scans of every patient (K,).
    """
    from scipy.stats import chi2

    m = np.asarray(totals, float)
    x, m = np.asarray(events, float)[m > 0], m[m > 0]
    total, scans = float(x.sum()), float(m.sum())
    if scans <= 0:
        return NAN, NAN
    dispersion = 1.0
    if total > 0 and len(m) > 1:
        expected = total / scans * m
        dispersion = max(float(((x - expected) ** 2 / expected).sum()) / (len(m) - 1), 1.0)
    scaled = total / dispersion
    low = chi2.ppf(0.025, 2 * scaled) / 2 if scaled > 0 else 0.0
    high = chi2.ppf(0.975, 2 * scaled + 2) / 2
    return float(low * dispersion / scans), float(high * dispersion / scans)


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
        return NAN, NAN
    surplus = (positives + negatives) / 2 - 1

    def excess(area: float) -> float:
        """Squared distance from the value less that of 1.96 standard errors."""
        shape = 1 + surplus * ((1 - area) / (2 - area) + area / (1 + area))
        return (value - area) ** 2 - Z**2 * area * (1 - area) * shape / (positives * negatives)

    low = 0.0 if value <= 0 else brentq(excess, 0, min(value, 1 - 1e-9))
    high = 1.0 if value >= 1 else brentq(excess, max(value, 1e-9), 1)
    return float(low), float(high)
