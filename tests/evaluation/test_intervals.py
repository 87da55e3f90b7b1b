# SPDX-License-Identifier: Apache-2.0
"""Intervals against scipy, their limits for patients of many observations, their coverage, and widths that are never zero."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from scripts.evaluation.intervals import clustered_wilson, count_interval, effective_n, wilson


@pytest.mark.parametrize(("events", "n"), [(11, 11), (0, 11), (1, 1), (0, 1), (7, 9), (3, 40), (199, 200)])
def test_wilson_interval_equals_scipy(events, n):
    expected = binomtest(events, n).proportion_ci(method="wilson")
    assert wilson(events, n) == pytest.approx((expected.low, expected.high), abs=1e-9)
    # One observation per patient: patients change nothing.
    each = np.arange(n) < events
    assert clustered_wilson(each, np.ones(n)) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_eleven_of_eleven_have_a_width():
    assert clustered_wilson(np.ones(11), np.ones(11)) == pytest.approx((0.7412, 1.0), abs=1e-4)
    # Clopper and Pearson's interval is a little wider, as an exact one is.
    assert binomtest(11, 11).proportion_ci(method="exact").low < 0.7412


@pytest.mark.parametrize("n", [1, 2, 5, 11, 300])
@pytest.mark.parametrize("patients", [1, 2, 4])
def test_no_proportion_has_a_width_of_zero(n, patients):
    totals = np.bincount(np.arange(n) % patients, minlength=patients)
    for events in (totals, 0 * totals, np.minimum(totals, 1)):
        low, high = clustered_wilson(events, totals)
        assert 0 <= low < high <= 1
        assert low <= events.sum() / n <= high


def test_effective_number_lies_between_its_limits():
    totals = np.full(12, 10)
    alike = effective_n(np.tile([0, 10], 6), totals)
    even = effective_n(np.full(12, 5), totals)
    assert alike == pytest.approx(12)  # one observation per patient
    assert 12 < even <= 120
    rng = np.random.default_rng(0)
    for _ in range(50):
        totals = rng.integers(0, 9, 8)
        events = rng.binomial(totals, 0.7)
        if totals.sum():
            assert totals.sum() ** 2 / (totals**2).sum() - 1e-9 <= effective_n(events, totals) <= totals.sum() + 1e-9
    assert effective_n([], []) == 0
    assert np.isnan(clustered_wilson([0], [0])).all()


def test_patients_without_observations_change_nothing():
    assert clustered_wilson([3, 0, 1], [4, 0, 5]) == clustered_wilson([3, 1], [4, 5])


@pytest.mark.parametrize("likeness", [0.0, 0.3])
def test_coverage_of_proportions_of_patients(likeness):
    rng, p, hits, plain, trials = np.random.default_rng(1), 0.8, 0, 0, 400
    for _ in range(trials):
        totals = rng.integers(1, 9, 12)
        share = rng.beta(p * (1 / likeness - 1), (1 - p) * (1 / likeness - 1), 12) if likeness else np.full(12, p)
        events = rng.binomial(totals, share)
        low, high = clustered_wilson(events, totals)
        hits += low <= p <= high
        low, high = wilson(events.sum(), totals.sum())
        plain += low <= p <= high
    assert hits / trials >= 0.92
    if likeness:
        assert plain / trials < 0.88  # vertebrae as if they were independent


@pytest.mark.parametrize("events", [0, 1, 4, 25])
def test_count_interval_is_garwoods_for_single_counts(events):
    from scipy.stats import poisson

    low, high = count_interval([events], [10])
    assert low <= events / 10 <= high
    assert high > low
    # The defining tail probabilities of the exact interval.
    assert poisson.cdf(events, 10 * high) == pytest.approx(0.025, abs=1e-6)
    if events:
        assert poisson.sf(events - 1, 10 * low) == pytest.approx(0.025, abs=1e-6)


def test_count_interval_widens_with_the_scatter_of_patients():
    even, uneven = count_interval([2] * 6, [1] * 6), count_interval([12, 0, 0, 0, 0, 0], [1] * 6)
    assert uneven[0] < even[0]
    assert uneven[1] > even[1]
    assert np.isnan(count_interval([], [])).all()
