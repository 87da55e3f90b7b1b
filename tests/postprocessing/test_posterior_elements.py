# SPDX-License-Identifier: Apache-2.0
"""Posterior elements in contact go to the vertebra whose height they fit."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.postprocessing.posterior_elements import COEFFICIENTS, assign_posterior, body_poses, terms

SPACING = (2.0, 2.0, 2.0)
GAP, WIDTH = 30.0, 34.0  # mm


def spine(count: int = 4, tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (R, A, S) of vertebrae, and of their bodies: blocks with processes at the expected height, a plate without a gap.

    Args:
        count: vertebrae, 1 at the head.
        tilt: shift of each body to the front, mm.
    """
    shape = (40, 70, 30 + round(count * GAP / 2))
    grid = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, SPACING, strict=True)), indexing="ij"), axis=-1)
    numbers, bodies = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
    centres = [np.array([40.0, 100.0 + tilt * n, (count - n + 0.5) * GAP]) for n in range(1, count + 1)]
    for n, centre in enumerate(centres, 1):
        offset = np.abs(grid - centre)
        bodies[(offset[..., 0] < WIDTH / 2) & (offset[..., 1] < 14) & (offset[..., 2] < 12)] = n
    # Every voxel of a plate behind the bodies belongs to the vertebra of the nearest expected height.
    plate = (np.abs(grid[..., 0] - 40) < 12) & (grid[..., 1] < 80) & (grid[..., 1] > 40)
    poses = body_poses(bodies, count, SPACING)
    voxels = np.argwhere(plate)
    errors = []
    for pose in poses:
        height, behind, beside = pose.coordinates(voxels * np.array(SPACING))
        errors.append(np.abs(height - terms(behind, beside) @ np.array(COEFFICIENTS)) * pose.gap)
    near = np.min(errors, axis=0) < 14
    numbers[tuple(voxels[near].T)] = np.argmin(errors, axis=0)[near] + 1
    return np.where(bodies > 0, bodies, numbers).astype(np.uint8), bodies


@pytest.mark.parametrize("tilt", [0.0, 6.0])
def test_a_plate_of_processes_is_divided(tilt):
    numbers, bodies = spine(tilt=tilt)
    labels = np.where(bodies > 0, bodies, np.where(numbers > 0, 1, 0)).astype(np.uint8)  # all of the plate flows to the first
    assign_posterior(labels, bodies, 4, SPACING)
    outside = (numbers > 0) & (bodies == 0)
    assert (labels == numbers)[outside].mean() > 0.93
    assert np.array_equal(labels > 0, numbers > 0)
    assert np.array_equal(labels[bodies > 0], bodies[bodies > 0])


def test_process_across_the_expected_height_is_not_cut():
    """A process that hangs lower than expected belongs to one vertebra, that of its larger part."""
    _, bodies = spine()
    poses = body_poses(bodies, 4, SPACING)
    middle = poses[1].centre + 45.0 * np.array([0.0, -1.0, 0.0])
    behind = 45.0 / poses[1].width
    middle[2] += float((terms(np.array([behind]), np.zeros(1)) @ np.array(COEFFICIENTS))[0]) * GAP - 7.0
    grid = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(bodies.shape, SPACING, strict=True)), indexing="ij"), axis=-1)
    process = np.linalg.norm((grid - middle) / [10.0, 14.0, 14.0], axis=-1) <= 1
    labels = np.where(bodies > 0, bodies, np.where(process, 1, 0)).astype(np.uint8)
    assign_posterior(labels, bodies, 4, SPACING)
    assert (labels[process & (bodies == 0)] == 2).mean() > 0.95


def test_processes_are_lower_the_further_behind():
    expected = terms(np.array([0.6, 1.0, 1.5, 2.0]), np.zeros(4)) @ np.array(COEFFICIENTS)
    assert (np.diff(expected) < 0).all()
    assert -1.0 < expected[-1] < expected[0] < 0.3


def test_what_is_beside_the_bodies_keeps_its_vertebra():
    numbers, bodies = spine()
    labels = numbers.copy()
    ribs = np.zeros(labels.shape, bool)
    ribs[:5, 47:50] = True
    labels[ribs & (labels == 0)] = 3
    assign_posterior(labels, bodies, 4, SPACING)
    assert (labels[ribs & (numbers == 0)] == 3).all()


def test_one_vertebra_and_none_are_unchanged():
    numbers, bodies = spine()
    for count in (0, 1):
        labels = np.where(numbers == 1, 1, 0).astype(np.uint8)
        before = labels.copy()
        assign_posterior(labels, np.where(bodies == 1, 1, 0), count, SPACING)
        assert np.array_equal(labels, before)


def test_poses_follow_the_spine():
    _, bodies = spine(tilt=6.0)
    poses = body_poses(bodies, 4, SPACING)
    assert [p.centre[2] for p in poses] == sorted((p.centre[2] for p in poses), reverse=True)
    for pose in poses:
        assert pose.up[2] > 0.9
        assert abs(pose.up @ pose.front) < 1e-9
        assert pose.gap == pytest.approx(np.hypot(GAP, 6.0), rel=0.05)
        assert pose.width == pytest.approx(WIDTH, rel=0.15)


def test_a_missing_neighbour_does_not_stretch_the_others():
    _, bodies = spine(count=5)
    bodies = np.select([bodies == n for n in (1, 2, 4, 5)], [1, 2, 3, 4], 0)
    gaps = [p.gap for p in body_poses(bodies, 4, SPACING)]
    assert max(gaps) < 1.4 * min(gaps)
