# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over patients, its coverage, AUC against scikit-learn, Holm and the paired test."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.statistics import Bootstrap, Estimate, auc, auc_interval, holm, interval_text, paired_test, wilson

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_interval_resamples_patients_not_cases():
    # Ten scans of one patient add no information to one scan of that patient.
    patients, values = np.repeat(np.arange(10), 10).astype(str), np.repeat(np.arange(10) % 2, 10).astype(float)
    estimate = Bootstrap(patients).mean(values)
    assert (estimate.low, estimate.high) == pytest.approx((0.2, 0.8))
    assert (estimate.n, estimate.patients) == (100, 10)
    wide = Bootstrap([str(i) for i in range(20)]).mean(np.linspace(0, 1, 20))
    assert 0.3 < wide.low < 0.5 < wide.high < 0.7


def test_interval_has_nominal_coverage():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        # Patients differ, and the scans of a patient resemble each other: an interval over scans would be far too narrow.
        patients = np.repeat(np.arange(30), 3)
        values = rng.normal(size=30)[patients] + 0.2 * rng.normal(size=90)
        estimate = Bootstrap(patients.astype(str), 400, seed=trial).mean(values)
        hits += estimate.low <= 0.0 <= estimate.high
    assert 0.89 <= hits / 300 <= 0.98


def test_cases_without_a_value_are_left_out_and_counted():
    estimate = Bootstrap(["a", "b", "c"]).mean(np.array([1.0, np.nan, 3.0]))
    assert (estimate.value, estimate.n, estimate.patients, estimate.left_out) == (2.0, 2, 2, 1)
    nothing = Bootstrap(["a"]).mean(np.array([np.nan]))
    assert np.isnan(nothing.value)
    assert (nothing.n, nothing.left_out) == (0, 1)


def test_ratio_weighs_observations_equally():
    estimate = Bootstrap(["a", "b", "c"]).ratio(np.array([1, 0, 2]), np.array([1, 4, 3]))
    assert estimate.value == pytest.approx(3 / 8)
    assert (estimate.n, estimate.patients) == (8, 3)


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    assert auc(scores, positive) == pytest.approx(sklearn_metrics.roc_auc_score(positive, scores))
    weights = rng.integers(0, 3, 40)
    expected = sklearn_metrics.roc_auc_score(positive, scores, sample_weight=weights)
    assert auc(scores, positive, weights) == pytest.approx(expected)
    assert np.isnan(auc(scores, np.ones(40, bool)))


def test_holm_by_hand():
    # 0.01 x 3, 0.02 x 2 -> 0.04, 0.03 x 1 stays at the larger 0.04.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])


def test_paired_test_detects_a_shift_only():
    rng = np.random.default_rng(1)
    assert paired_test(rng.normal(1.0, 0.5, 30)) < 0.001
    assert paired_test(np.zeros(10)) == 1.0


# Newcombe 1998, table I, method 3 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E).
@pytest.mark.parametrize(
    ("events", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_published_examples(events, n, low, high):
    assert wilson(events, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - events, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_interval_without_observations():
    assert np.isnan(wilson(0, 0)).all()


def test_means_of_few_patients_or_equal_values_have_no_interval():
    few = Bootstrap([str(k) for k in range(9)]).mean(np.linspace(0, 1, 9))
    assert few.value == pytest.approx(0.5)
    assert np.isnan(few.low)
    assert interval_text(few) == "n too small"
    assert interval_text(Bootstrap(["a"]).mean(np.array([0.7]))) == "n too small"
    equal = Bootstrap([str(k) for k in range(11)]).mean(np.ones(11))
    assert (equal.value, interval_text(equal)) == (1.0, "no spread")
    assert interval_text(Estimate(np.nan, np.nan, np.nan, 0, 0)) == "-"
    assert interval_text(Estimate(0.5, 0.25, 0.75, 40, 20), 0, 100) == "25 to 75"
    assert interval_text(Estimate(0.5, -0.25, 0.75, 40, 20), 1, sign="+") == "-0.2 to +0.8"


def test_counts_per_scan_have_an_interval_without_events():
    none = Bootstrap([str(k) for k in range(11)]).count(np.zeros(11))
    assert (none.value, none.events, none.n, none.per) == (0.0, 0, 11, "scan")
    assert (none.low, none.high) == pytest.approx((0, 0.3354), abs=1e-4)  # 3.689 / 11


def test_proportion_has_the_interval_of_its_patients():
    patients = [str(k) for k in range(11)]
    perfect = Bootstrap(patients).proportion(np.ones(11), np.ones(11))
    assert (perfect.value, perfect.events, perfect.n) == (1.0, 11, 11)
    assert (perfect.low, perfect.high) == pytest.approx((wilson(11, 11)[0], 1.0))
    # Ten vertebrae of each patient, all right or all wrong: patients count, and the interval of 100 vertebrae would be too narrow.
    clustered = Bootstrap([str(k // 10) for k in range(100)]).proportion(np.repeat([1, 0], 50), np.ones(100))
    assert clustered.low < wilson(50, 100)[0] - 0.05
    nothing = Bootstrap(["a"]).proportion(np.zeros(1), np.zeros(1))
    assert np.isnan(nothing.value)
    assert nothing.n == 0


@pytest.mark.parametrize(
    ("value", "positives", "negatives"), [(0.8, 20, 30), (1.0, 3, 18), (0.5, 10, 10), (0.0, 4, 4), (0.97, 1, 50)]
)
def test_auc_interval_solves_its_equation(value, positives, negatives):
    low, high = auc_interval(value, positives, negatives)
    assert low <= value <= high
    for end in (low, high):
        if end in (0.0, 1.0):
            continue
        surplus = (positives + negatives) / 2 - 1
        variance = end * (1 - end) * (1 + surplus * (1 - end) / (2 - end) + surplus * end / (1 + end)) / (positives * negatives)
        assert abs(value - end) == pytest.approx(1.96 * variance**0.5, rel=1e-3)


def test_auc_interval_is_mirrored_and_narrows():
    low, high = auc_interval(0.8, 20, 30)
    assert auc_interval(0.2, 20, 30) == pytest.approx((1 - high, 1 - low))
    assert auc_interval(1.0, 3, 18)[0] < auc_interval(1.0, 30, 180)[0] < 1
    assert np.isnan(auc_interval(0.5, 0, 3)).all()


def test_bootstrap_of_the_auc_equals_repeated_auc():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    bootstrap = Bootstrap([str(k // 3) for k in range(60)], 200)
    estimate = bootstrap.auc(scores, positive)
    resampled = [auc(scores, positive, weights[bootstrap.index]) for weights in bootstrap.weights]
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert estimate.value == auc(scores, positive)
    ends = auc_interval(estimate.value, int(positive.sum()), int((~positive).sum()))
    assert (estimate.low, estimate.high) == pytest.approx((min(low, ends[0]), max(high, ends[1])))


def test_auc_of_one_class_is_unknown():
    assert np.isnan(Bootstrap(["a", "b"]).auc(np.array([0.1, 0.2]), np.array([True, True])).value)


def test_totals_equal_sums_of_resamples():
    bootstrap = Bootstrap(["a", "b", "a"], 20)
    whole, resampled = bootstrap.totals(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    np.testing.assert_array_equal(whole, [9, 12])
    np.testing.assert_array_equal(resampled, bootstrap.weights @ np.array([[6, 8], [3, 4]]))


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.3])
def test_margin_of_equality_equals_that_of_two_t_tests(shift):
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(4).normal(shift, 1.0, 400)
    margin = Bootstrap([str(n) for n in range(400)], 4000).equal_within(values)
    for bound, passes in ((1.1 * margin + 0.01, True), (0.9 * margin - 0.01, False)):
        sides = (values + bound, "greater"), (values - bound, "less")
        p = max(ttest_1samp(shifted, 0, alternative=side).pvalue for shifted, side in sides)
        assert (p < 0.05) == passes


def test_margin_of_equality_needs_patients_and_scales():
    names = [str(n) for n in range(12)]
    values = np.linspace(-0.1, 0.2, 12)
    margin = Bootstrap(names).equal_within(values)
    assert margin >= abs(values.mean())
    assert Bootstrap(names).equal_within(3 * values) == pytest.approx(3 * margin)
    assert Bootstrap(names).equal_within(-values) == pytest.approx(margin)
    assert Bootstrap(names).equal_within(np.zeros(12)) == 0
    assert np.isnan(Bootstrap(names[:9]).equal_within(values[:9]))
    assert np.isnan(Bootstrap(["one"] * 12).equal_within(values))
