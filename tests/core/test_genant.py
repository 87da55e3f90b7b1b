# SPDX-License-Identifier: Apache-2.0
"""Genant grades, relative height loss, and agreement of gradings."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.core.genant import BodyHeights, central_third, grade_of, weighted_kappa


@pytest.mark.parametrize(("loss", "grade"), [(0.0, 0), (0.199, 0), (0.2, 1), (0.3, 2), (0.4, 3), (0.9, 3)])
def test_genant_grades(loss, grade):
    assert grade_of(loss) == grade


def test_loss_is_relative_to_intact_height():
    loss = BodyHeights(15, 20, 25).loss_from(BodyHeights(30, 25, 25))
    assert loss["anterior"] == pytest.approx(0.5)
    assert loss["posterior"] == pytest.approx(0.0)


def test_third_of_a_footprint_is_its_middle():
    footprint = np.zeros((40, 20), bool)
    footprint[5:35, 4:16] = True
    assert np.flatnonzero(central_third(footprint).any(axis=1)).tolist() == list(range(14, 26))


@pytest.mark.parametrize("seed", range(4))
def test_weighted_kappa_is_that_of_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 4, 60)
    second = np.clip(first + rng.integers(-1, 2, 60), 0, 3)
    expected = metrics.cohen_kappa_score(first, second, weights="quadratic", labels=[0, 1, 2, 3])
    assert weighted_kappa(first.tolist(), second.tolist()) == pytest.approx(expected)


def test_weighted_kappa_at_its_limits():
    assert weighted_kappa([0, 1, 2, 3], [0, 1, 2, 3]) == 1
    assert weighted_kappa([0, 3], [3, 0]) == -1
    assert np.isnan(weighted_kappa([0, 0], [0, 0]))
    assert np.isnan(weighted_kappa([], []))
    with pytest.raises(ValueError, match="same vertebrae"):
        weighted_kappa([0, 1], [0])
