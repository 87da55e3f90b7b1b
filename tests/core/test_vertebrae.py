# SPDX-License-Identifier: Apache-2.0
"""Levels, labels and order of the vertebrae; Genant's grades follow from heights."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.core.genant import LOSS_BANDS, SHAPES, SIMULATED_LOSS, BodyHeights, grade_of, heights_from_columns
from scripts.core.vertebrae import LABELS, LEVELS, region_of, spine_order, voxels_per_label


def test_levels_and_labels_are_inverse_and_follow_verse():
    assert {label: LEVELS[label] for label in (1, 7, 8, 19, 20, 24, 26, 28)} == {
        1: "C1", 7: "C7", 8: "T1", 19: "T12", 20: "L1", 24: "L5", 26: "S1", 28: "T13",
    }  # fmt: skip
    assert all(LABELS[level] == label for label, level in LEVELS.items())
    assert len(LABELS) == len(LEVELS)


@pytest.mark.parametrize(
    ("level", "region"),
    [("C1", "cervical"), ("C7", "cervical"), ("T1", "thoracic"), ("T13", "thoracic"), ("L6", "lumbar"), ("S1", "lumbar")],
)
def test_region_of_a_level(level, region):
    assert region_of(level) == region


def test_order_from_head_to_feet_with_t13_and_sacrum():
    labels = np.array([26, 20, 28, 19, 7, 8, 255, 0, 25], np.uint8).reshape(3, 3, 1)
    assert [LEVELS[v] for v in spine_order(labels)] == ["C7", "T1", "T12", "T13", "L1", "L6", "S1"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_voxel_counts_equal_those_of_unique(order):
    labels = np.asarray(np.random.default_rng(0).integers(0, 256, (9, 10, 11)), np.uint8, order=order)
    for view in (labels, labels[::-1, ::2], labels.transpose(2, 0, 1)):
        values, counts = np.unique(view[view > 0], return_counts=True)
        assert voxels_per_label(view) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert voxels_per_label(np.zeros((2, 2, 2), np.uint8)) == {}


def test_grades_change_at_the_bands_of_simulated_losses():
    assert [grade_of(x) for x in (-0.1, 0.1999, 0.20, 0.25, 0.3999, 0.40, 0.95)] == [0, 0, 1, 2, 2, 3, 3]
    for grade, (low, high) in SIMULATED_LOSS.items():
        assert LOSS_BANDS[grade][0] < low < high < LOSS_BANDS[grade][1]
        assert grade_of(low) == grade_of(high) == grade


def test_heights_are_means_over_the_zones_of_a_body():
    depth = np.broadcast_to((np.arange(40) + 0.5) / 40, (12, 40))
    heights = heights_from_columns(20 + 10 * depth, np.ones(depth.shape, bool), depth)
    assert heights.posterior < heights.middle < heights.anterior
    assert heights.middle == pytest.approx(25)
    assert heights.mean == pytest.approx((heights.anterior + heights.middle + heights.posterior) / 3)
    loss = heights.loss_from(BodyHeights(40, 25, 25))
    assert set(SHAPES.values()) <= set(loss)
    assert loss["middle"] == pytest.approx(0)
    no_front = heights_from_columns(20 + 10 * depth, np.asarray(depth < 0.7), depth)
    assert np.isnan(no_front.anterior)
