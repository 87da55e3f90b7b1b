# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over patients, its coverage, AUC against scikit-learn, Holm and the paired test."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.statistics import Bootstrap, auc, holm, paired_test

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_interval_resamples_patients_not_cases():
    # Ten scans of one patient add no information to one scan of that patient.
    estimate = Bootstrap(["a"] * 10 + ["b"] * 10).mean(np.array([0.0] * 10 + [1.0] * 10))
    assert (estimate.low, estimate.high) == (0.0, 1.0)
    assert (estimate.n, estimate.patients) == (20, 2)
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
