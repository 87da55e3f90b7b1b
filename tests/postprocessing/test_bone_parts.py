# SPDX-License-Identifier: Apache-2.0
"""A mask is divided at its necks, into parts that cover it."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.postprocessing import bone_parts
from scripts.postprocessing.bone_parts import divide_at_necks

SPACING = (1.5, 1.5, 1.5)


def balls(neck: float, distance: int = 16, radius: float = 6.0) -> np.ndarray:
    """Two balls (R, A, S) with a bar of half width ``neck`` voxels between them; below 0 without a bar."""
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20), np.arange(20 + distance), indexing="ij"), axis=-1).astype(float)
    first, second = np.array([10.0, 10.0, 9.0]), np.array([10.0, 10.0, 9.0 + distance])
    mask = np.minimum(*(np.linalg.norm(grid - c, axis=-1) for c in (first, second))) <= radius
    beside = np.abs(grid[..., :2] - 10).max(axis=-1)
    return mask | ((beside <= neck) & (grid[..., 2] > 9) & (grid[..., 2] < 9 + distance))


def count(parts: np.ndarray) -> int:
    return len(set(np.unique(parts)) - {0})


@pytest.mark.parametrize("neck", [0, 1, 2])
def test_balls_with_a_thin_bar_are_two_parts(neck):
    mask = balls(neck)
    parts = divide_at_necks(mask, SPACING, 0.5)
    assert count(parts) == 2
    assert parts[10, 10, 9] != parts[10, 10, 25]
    assert (parts[:, :, :15][mask[:, :, :15]] == parts[10, 10, 9]).all()


def test_bar_as_wide_as_the_balls_is_no_neck():
    assert count(divide_at_necks(balls(5), SPACING, 0.5)) == 1


def test_deeper_necks_give_fewer_parts():
    mask = np.random.default_rng(0).random((16, 24, 24)) < 0.7
    counts = [count(divide_at_necks(mask, SPACING, neck)) for neck in (0.0, 0.3, 0.6, 2.0, 50.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2]


def test_parts_cover_the_mask_and_nothing_else():
    mask = np.random.default_rng(1).random((12, 20, 20)) < 0.5
    np.testing.assert_array_equal(divide_at_necks(mask, SPACING, 0.5) > 0, mask)


def test_separate_pieces_are_separate_parts():
    assert count(divide_at_necks(balls(-1), SPACING, 50.0)) == 2


def test_depth_is_in_mm():
    mask = balls(2)
    assert count(divide_at_necks(mask, SPACING, 4.0)) == 2
    assert count(divide_at_necks(mask, (0.5, 0.5, 0.5), 4.0)) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror_image_has_as_many_parts(axis):
    mask = balls(1)
    assert count(divide_at_necks(np.flip(mask, axis), SPACING, 0.5)) == 2


def test_slabs_do_not_show(monkeypatch):
    mask = np.random.default_rng(2).random((10, 12, 70)) < 0.8
    whole = divide_at_necks(mask, SPACING, 0.5)
    monkeypatch.setattr(bone_parts, "SLAB", 7)
    np.testing.assert_array_equal(divide_at_necks(mask, SPACING, 0.5), whole)


def test_empty_mask():
    assert not divide_at_necks(np.zeros((4, 5, 6), bool), SPACING, 0.5).any()
