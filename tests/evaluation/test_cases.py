# SPDX-License-Identifier: Apache-2.0
"""Case metrics against scikit-learn, the rule for empty masks, and the bootstrap interval."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.cases import bootstrap_interval, case_metrics, markdown, summarise

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_overlap_agrees_with_scikit_learn(seed, share):
    rng = np.random.default_rng(seed)
    p, r = rng.random((2, 6, 7, 8)) < share
    p.flat[0] = r.flat[0] = True
    got = case_metrics(p, r, 0.001)
    assert got["dice"] == pytest.approx(sklearn_metrics.f1_score(r.ravel(), p.ravel()))
    assert got["iou"] == pytest.approx(sklearn_metrics.jaccard_score(r.ravel(), p.ravel()))
    both = sklearn_metrics.jaccard_score(r.ravel(), p.ravel(), average="macro")
    assert got["iou_with_background"] == pytest.approx(both)
    assert got["iou"] == pytest.approx(got["dice"] / (2 - got["dice"]))
    assert got["false_positive_ml"] == pytest.approx(np.count_nonzero(p & ~r) * 0.001)


def test_empty_references_score_by_the_stated_rule():
    empty, one = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    one[1, 1, 1] = 1
    assert case_metrics(empty, empty, 1.0)["dice"] == 1.0
    assert case_metrics(one, empty, 1.0)["dice"] == 0.0
    assert case_metrics(empty, one, 1.0)["iou"] == 0.0


def test_other_grids_are_refused():
    with pytest.raises(ValueError, match="share a grid"):
        case_metrics(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), 1.0)


def test_interval_resamples_patients_not_cases():
    # Ten scans of one patient say no more than one scan of that patient.
    values, patients = np.array([0.0] * 10 + [1.0] * 10), ["a"] * 10 + ["b"] * 10
    low, high = bootstrap_interval(values, patients)
    assert (low, high) == (0.0, 1.0)
    wide = bootstrap_interval(np.linspace(0, 1, 20), [str(i) for i in range(20)])
    assert 0.3 < wide[0] < 0.5 < wide[1] < 0.7


def test_summary_separates_healthy_cases_and_states_n():
    rng = np.random.default_rng(0)
    rows = []
    for k in range(4):
        r = rng.random((4, 4, 4)) < (0.0 if k == 0 else 0.5)
        rows.append({"case": str(k), "patient": str(k), **case_metrics(r, r, 1.0)})
    summary = summarise(rows)
    assert summary["fractured/dice"]["n"] == 3
    assert summary["healthy/dice"]["n"] == 1
    assert summary["all/dice"]["mean"] == 1.0
    assert "| fractured | dice | 1.000 | 1.000 to 1.000 | 3 |" in markdown(summary)
