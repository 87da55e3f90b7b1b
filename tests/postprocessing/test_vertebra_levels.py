# SPDX-License-Identifier: Apache-2.0
"""Levels come from a mask, or are counted from a sacrum that is in view, and otherwise stay unknown."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.core.vertebrae import LABELS, LEVELS
from scripts.postprocessing.vertebra_instances import BodyShape, VertebraInstances, find_vertebrae
from scripts.postprocessing.vertebra_levels import guess_levels, levels_from_mask, lumbosacral_disc
from spine_scene import make_spine


def stack(tilts, width: float = 42.0, complete=None) -> VertebraInstances:
    """Instances by their inclinations alone."""
    labels = np.zeros((2, 2, len(tilts)), np.uint8)
    shapes = {n: BodyShape(width, t) for n, t in enumerate(tilts, 1)}
    return VertebraInstances(labels, labels > 0, dict.fromkeys(shapes, True) | (complete or {}), None, shapes)


def test_levels_are_counted_upwards_from_the_last_vertebra():
    labels, sacrum = guess_levels(stack([0.0] * 5 + [40.0]), 60.0)
    assert [LEVELS[labels[n]] for n in sorted(labels)] == ["T12", "L1", "L2", "L3", "L4", "L5"]
    assert sacrum is None


def test_instance_below_the_inclined_disc_is_the_sacrum():
    labels, sacrum = guess_levels(stack([0.0, 5.0, 38.0, 0.0]), 10.0)
    assert {n: LEVELS[v] for n, v in labels.items()} == {1: "L3", 2: "L4", 3: "L5"}
    assert sacrum == 4


@pytest.mark.parametrize(
    ("instances", "below"),
    [
        (stack([0.0, 5.0, 20.0]), 60.0),  # L4/L5, or a thoracic spine
        (stack([0.0, 5.0, 40.0], width=24.0), 60.0),  # upper thoracic
        (stack([0.0, 5.0, 40.0]), 10.0),  # no sacrum in view
        (stack([0.0, 5.0, 40.0], complete={3: False}), 60.0),
        (stack([40.0, 5.0, 10.0, 0.0]), 60.0),  # not at the end
        (stack([0.0, 5.0, -40.0]), 60.0),  # facing forwards
        (stack([]), 60.0),
        (stack([float("nan")] * 3), 60.0),
    ],
)
def test_no_guess_without_a_sacrum(instances, below):
    assert guess_levels(instances, below) == ({}, None)
    assert lumbosacral_disc(instances, below) is None


def test_levels_above_c1_have_no_name():
    labels, _ = guess_levels(stack([0.0] * 26 + [40.0]), 60.0)
    assert labels[27] == LABELS["L5"]
    assert labels[27 - 23] == LABELS["C1"]
    assert set(labels) == set(range(4, 28))


LORDOSIS = [-6.0, -4.0, 0.0, 4.0, 12.0, 22.0]  # forward inclination of T12 to L5


@pytest.mark.parametrize("mirror", [False, True])
def test_lumbosacral_angle_of_a_spine(mirror):
    """A curve whose sacrum is inclined backwards by 45 degrees, and the same curve turned forwards."""
    sign = 1 if mirror else -1
    spine = make_spine(7, pitch=[sign * v for v in [*LORDOSIS, 58.0]], gap=9.0, half_width=22.0, half_depth=17.0)
    found = find_vertebrae(spine.vertebra, spine.body, spine.spacing)
    assert found.numbers == list(range(1, 8))
    labels, sacrum = guess_levels(found, 60.0)
    if mirror:
        assert (labels, sacrum) == ({}, None)
    else:
        assert [LEVELS[labels[n]] for n in range(1, 7)] == ["T12", "L1", "L2", "L3", "L4", "L5"]
        assert sacrum == 7


@pytest.mark.parametrize("curve", [{}, {"kyphosis": 50.0}, {"scoliosis": 40.0}, {"kyphosis": -50.0}], ids=str)
def test_straight_and_thoracic_spines_have_no_guess(curve):
    spine = make_spine(6, half_width=14.0, half_depth=12.0, height=20.0, gap=4.0, **curve)
    assert guess_levels(find_vertebrae(spine.vertebra, spine.body, spine.spacing), 60.0) == ({}, None)


def test_levels_of_a_mask_by_the_larger_part():
    labels = np.repeat(np.array([1, 1, 1, 2, 2, 3, 3, 3, 4, 5], np.uint8), 3)[None, None]
    mask = np.repeat(np.array([19, 19, 20, 20, 20, 0, 0, 22, 99, 28], np.uint8), 3)[None, None]
    assert levels_from_mask(labels, mask) == {1: 19, 2: 20, 5: 28}
    assert levels_from_mask(labels, np.zeros_like(mask)) == {}
    assert levels_from_mask(np.zeros_like(labels), mask) == {}


def test_no_level_is_given_twice():
    labels = np.array([[[1, 1, 2, 2]]], np.uint8)
    assert levels_from_mask(labels, np.full_like(labels, 20)) == {1: 20}
