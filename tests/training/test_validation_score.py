# SPDX-License-Identifier: Apache-2.0
"""The score that selects weights is 0 for marking nothing, and counts false positives of healthy cases."""

from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine
from scripts.training.validation_score import (
    FractureDice,
    FractureDiceHandler,
    MarkedFraction,
    MarkedHandler,
    key_score,
    marked_fractions,
    named,
)


def one_hot(*voxels: int, size: int = 10) -> torch.Tensor:
    """Mask (2, size) in which the given voxels are fractured."""
    mask = torch.zeros(2, size)
    mask[1, list(voxels)] = 1
    mask[0] = 1 - mask[1]
    return mask


def score(metric, *pairs: tuple[torch.Tensor, torch.Tensor]) -> float:
    for prediction, reference in pairs:
        metric([prediction], [reference])
    return float(metric.aggregate())


FRACTURED, HEALTHY = one_hot(1, 2), one_hot()


@pytest.mark.parametrize("healthy", [0, 1, 50])
def test_marking_nothing_scores_zero(healthy):
    assert score(FractureDice(), (one_hot(), FRACTURED), *[(one_hot(), HEALTHY)] * healthy) == 0.0


def test_perfect_masks_score_one_whatever_the_healthy_cases():
    assert score(FractureDice(), (FRACTURED, FRACTURED), (one_hot(), HEALTHY)) == 1.0


def test_false_positives_of_healthy_cases_lower_the_score():
    right = [(FRACTURED, FRACTURED)]
    assert score(FractureDice(), *right, (one_hot(7), HEALTHY)) == 0.5
    assert score(FractureDice(), *right, (one_hot(7), HEALTHY), (one_hot(), HEALTHY)) == 0.5


def test_score_is_the_mean_of_dice_by_its_definition():
    torch.manual_seed(0)
    masks = [(torch.rand(2, 30) > 0.6).float() for _ in range(8)]
    pairs = list(zip(masks[:4], masks[4:], strict=True))
    expected = [2 * float((p[1] * r[1]).sum()) / float(p[1].sum() + r[1].sum()) for p, r in pairs]
    assert score(FractureDice(), *pairs) == pytest.approx(sum(expected) / 4)


def test_marked_fractions_count_fractured_and_healthy_cases():
    pairs = [(one_hot(5), FRACTURED), (one_hot(), FRACTURED), (one_hot(), HEALTHY), (one_hot(1), HEALTHY), (one_hot(), HEALTHY)]
    assert score(MarkedFraction(), *pairs) == 0.5
    assert score(MarkedFraction(healthy=True), *pairs) == pytest.approx(1 / 3)
    assert score(MarkedFraction(healthy=True), (FRACTURED, FRACTURED)) == 0.0


def test_handlers_have_the_values_of_the_metrics():
    engine = Engine(lambda _, pair: ([pair[0]], [pair[1]]))
    for name, handler in (("dice", FractureDiceHandler()), ("marked", MarkedHandler()), ("false", MarkedHandler(healthy=True))):
        handler.attach(engine, name)
    engine.run([(FRACTURED, FRACTURED), (one_hot(3), HEALTHY)])
    assert engine.state.metrics == {"dice": 0.5, "marked": 1.0, "false": 1.0}


def test_scores_of_training_cases_have_another_name():
    metrics = {"val_mean_dice": 1, "val_mean_iou": 2}
    assert named(metrics, cases=[{"image": "a"}]) == metrics
    assert named(metrics, cases=[]) == {"train_mean_dice": 1, "train_mean_iou": 2}


def test_key_score_of_nan_is_zero():
    engine = Engine(lambda *_: None)
    engine.state.key_metric_name, engine.state.metrics = "a", {"a": math.nan, "b": 0.5}
    assert key_score(engine) == 0.0
    engine.state.key_metric_name = "b"
    assert key_score(engine) == 0.5


def test_fractions_are_found_under_both_names():
    assert marked_fractions({"train_fractured_marked": 0.5, "train_healthy_marked": 0.0}) == (0.5, 0.0)
    assert marked_fractions({"val_mean_dice": 0.5}) is None


@pytest.mark.parametrize("marked", [0, 1, 3])
def test_without_any_fracture_the_score_is_of_clean_cases(marked, caplog):
    metric = FractureDice()
    for case in range(3):
        prediction = torch.zeros(1, 2, 4, 4)
        prediction[:, 1, 0, 0] = float(case < marked)
        metric(prediction, torch.zeros(1, 2, 4, 4))
    assert float(metric.aggregate()) == pytest.approx(1 - marked / 3)
    assert caplog.text.count("no scored case has a fracture") == 1
    metric.aggregate()
    assert caplog.text.count("no scored case has a fracture") == 1
