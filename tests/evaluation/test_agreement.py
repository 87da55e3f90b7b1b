# SPDX-License-Identifier: Apache-2.0
"""Weighted kappa against scikit-learn and by hand; limits of agreement by definition."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.agreement import confusion, grade_agreement, limits_of_agreement, weighted_kappa

RNG = np.random.default_rng(0)


def test_kappa_by_hand():
    # Four vertebrae, one of them a grade too high; weights are distances of grades.
    reference, measured = [0, 0, 2, 3], [0, 1, 2, 3]
    expected = sum(abs(a - b) for a in reference for b in measured) / 16
    assert weighted_kappa(reference, measured) == pytest.approx(1 - (1 / 4) / expected)


@pytest.mark.parametrize("seed", range(4))
def test_kappa_equals_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    assert weighted_kappa(one, other) == pytest.approx(metrics.cohen_kappa_score(one, other, weights="linear"))
    np.testing.assert_array_equal(confusion(one, other), metrics.confusion_matrix(one, other, labels=range(4)))


def test_kappa_of_equal_chance_and_constant_grades():
    grades = [0, 1, 2, 3, 0, 0]
    assert weighted_kappa(grades, grades) == 1
    assert weighted_kappa(grades, grades[::-1]) < 1
    assert np.isnan(weighted_kappa([0, 0, 0], [0, 0, 0]))


def test_agreement_has_counts_and_intervals():
    one, other = [0, 0, 1, 2, 3, 3], [0, 1, 1, 2, 1, 3]
    rows = grade_agreement(one, other, list("aabbcc"), 200, 0)
    kappa = rows["weighted kappa (linear)"]
    assert kappa.value == pytest.approx(weighted_kappa(one, other))
    assert np.isnan([kappa.low, kappa.high]).all()  # three patients
    many = grade_agreement(one * 4, other * 4, [str(k // 2) for k in range(24)], 200, 0)["weighted kappa (linear)"]
    assert many.value == pytest.approx(kappa.value)
    assert many.low < many.value < many.high
    assert (rows["equal grade"].events, rows["equal grade"].n, rows["equal grade"].patients) == (4, 6, 3)
    assert rows["within one grade"].events == 5


def test_limits_of_agreement_by_definition():
    difference = RNG.normal(0.5, 2.0, 40)
    rows = limits_of_agreement(difference, [str(k) for k in range(40)], 300, 0, "height", "mm")
    spread = 1.96 * difference.std(ddof=1)
    for name, value in (
        ("mean difference", difference.mean()),
        ("mean absolute difference", np.abs(difference).mean()),
        ("lower limit of agreement", difference.mean() - spread),
        ("upper limit of agreement", difference.mean() + spread),
    ):
        estimate = rows[f"height: {name} (mm)"]
        assert estimate.value == pytest.approx(value)
        assert estimate.low < value < estimate.high


def test_limits_of_one_vertebra_are_unknown():
    rows = limits_of_agreement([1.0], ["a"], 20, 0, "height", "mm")
    assert rows["height: mean difference (mm)"].value == 1
    assert np.isnan(rows["height: lower limit of agreement (mm)"].value)


def test_grades_out_of_range_are_one_line():
    with pytest.raises(ValueError, match="must be 0 to 3"):
        confusion([0, 4], [0, 1])
