# SPDX-License-Identifier: Apache-2.0
"""Reliability, calibration error, Brier score and fit, by hand, against scikit-learn, and on simulated probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.calibration import (
    brier_score,
    calibrated,
    calibration_error,
    fit_calibration,
    logit,
    reliability,
    uncalibrated,
)


def simulated(n: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of which logit(p) * slope + intercept is the true log odds."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(0, 1.5, n)))
    return p, rng.random(n) < calibrated(p, (slope, intercept))


def test_calibration_error_by_hand():
    p, y = [0.05, 0.05, 0.95, 0.95], [0, 1, 1, 1]
    # Two bins of two: |0.05 - 0.5| and |0.95 - 1|, each with half of the weight.
    assert calibration_error(p, y) == pytest.approx((0.45 + 0.05) / 2)
    assert brier_score(p, y) == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.05**2) / 4)
    table = reliability(p, y)
    assert [(b.n, b.fractured) for b in table if b.n] == [(2, 1), (2, 2)]
    assert (table[0].low, table[-1].high, len(table)) == (0.0, 1.0, 10)


def test_borders_of_bins():
    assert [b.n for b in reliability([0.0, 0.1, 0.3, 0.6, 0.7, 1.0], [0] * 6)] == [1, 1, 0, 1, 0, 0, 1, 1, 0, 1]


def test_brier_score_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    p, y = simulated(200, 1, 0)
    assert brier_score(p, y) == pytest.approx(metrics.brier_score_loss(y, p))


@pytest.mark.parametrize("truth", [(1.0, 0.0), (0.5, -1.0), (2.0, 0.7)])
def test_fit_recovers_slope_and_intercept(truth):
    p, y = simulated(20000, *truth)
    assert fit_calibration(p, y) == pytest.approx(truth, abs=0.08)


def test_fit_equals_logistic_regression_of_the_logit():
    linear_model = pytest.importorskip("sklearn.linear_model")
    p, y = simulated(400, 0.6, -0.5, seed=1)
    model = linear_model.LogisticRegression(C=1e9, tol=1e-10).fit(logit(p)[:, None], y)
    # Hundreds of vertebrae outweigh the prior.
    assert fit_calibration(p, y) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=0.02)


def test_fit_of_weights_equals_that_of_repeated_observations():
    p, y = simulated(60, 1.5, 0.3, seed=2)
    weights = np.random.default_rng(0).integers(0, 4, 60)
    assert fit_calibration(p, y, weights) == pytest.approx(fit_calibration(np.repeat(p, weights), np.repeat(y, weights)))


def test_fit_of_separated_or_constant_probabilities_is_finite():
    slope, intercept = fit_calibration([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert 1 < slope < 20
    assert abs(intercept) < 1
    assert np.isfinite(fit_calibration([0.5] * 4, [0, 1, 0, 1])).all()
    assert np.isfinite(fit_calibration([0.0, 1.0, 0.0, 1.0], [0, 1, 1, 0])).all()


def test_reversed_probabilities_have_a_negative_slope():
    p, y = simulated(2000, 1.0, 0.0)
    assert fit_calibration(p, ~y)[0] < 0


def test_fit_lowers_the_error_and_keeps_the_order():
    p, y = simulated(4000, 0.4, -1.0, seed=3)
    after = calibrated(p, fit_calibration(p, y))
    assert calibration_error(after, y) < 0.25 * calibration_error(p, y)
    assert brier_score(after, y) < brier_score(p, y)
    assert (np.argsort(after) == np.argsort(p)).all()


def test_inference_applies_the_same_formula():
    from scripts.postprocessing.vertebra_decision import calibrate

    for p in (0.0, 1e-5, 0.2, 0.97, 1.0):
        assert calibrate(p, (1.7, -0.4)) == pytest.approx(float(calibrated(p, (1.7, -0.4))))


def test_uncalibrated_is_the_inverse():
    p = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(uncalibrated(calibrated(p, (0.7, 0.4)), (0.7, 0.4)), p, atol=1e-9)
    np.testing.assert_array_equal(uncalibrated([0.0, 1.0], (1.0, 0.0)), [0.0, 1.0])
    with pytest.raises(ValueError, match="slope must be above 0"):
        uncalibrated(p, (0.0, 0.4))


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([0.5, np.nan], [0, 1], "contain NaN"),
        ([0.5, 1.5], [0, 1], "outside 0 to 1"),
        ([0.5, 0.5], [0, 2], "0 .intact. or 1"),
        ([0.5], [0, 1], "one class for each"),
        ([0.5, 0.6], [1, 1], "needs both"),
        ([], [], "needs both"),
    ],
)
def test_bad_input_is_one_line(p, y, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(p, y)


def test_no_vertebra_has_no_error():
    assert np.isnan(calibration_error([], []))
    assert np.isnan(brier_score([], []))
