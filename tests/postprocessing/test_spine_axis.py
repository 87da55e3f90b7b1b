# SPDX-License-Identifier: Apache-2.0
"""The axis follows the bodies of one spine, and detections elsewhere are no part of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scripts.postprocessing.spine_axis import MARGIN_MM, STEP_MM, SpineAxis, body_width, disc_profile, find_axis, spine_bodies
from spine_scene import make_spine

CURVES = [{}, {"kyphosis": 60.0}, {"kyphosis": -50.0}, {"scoliosis": 40.0}, {"kyphosis": 40.0, "scoliosis": 50.0}]


def axis_of(spine) -> SpineAxis:
    axis = find_axis(spine_bodies(spine.body, spine.spacing), spine.spacing)
    assert axis is not None
    return axis


@pytest.mark.parametrize(
    ("curve", "spacing"),
    [*((c, (2.5, 2.5, 2.5)) for c in CURVES), (CURVES[4], (3.0, 1.5, 2.0)), (CURVES[4], (2.0, 2.0, 5.0))],
    ids=str,
)
def test_axis_passes_through_every_body_from_head_to_feet(curve, spacing):
    spine = make_spine(7, spacing=spacing, **curve)
    axis = axis_of(spine)
    distance = np.linalg.norm(spine.centres[:, None] - axis.points, axis=-1)
    assert distance.min(axis=1).max() < 5.0
    assert (np.diff(distance.argmin(axis=1)) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(axis.tangents, axis=1), 1.0, atol=1e-6)
    steps = np.linalg.norm(np.diff(axis.points, axis=0), axis=1)
    np.testing.assert_allclose(steps[:-1], STEP_MM, atol=0.05)


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_frames_are_orthonormal(curve):
    axis = axis_of(make_spine(5, **curve))
    right, front = axis.frames()
    for a, b, expected in ((right, right, 1), (front, front, 1), (right, front, 0), (right, axis.tangents, 0)):
        np.testing.assert_allclose((a * b).sum(axis=1), expected, atol=1e-6)
    assert (right[:, 0] > 0.5).all()
    assert (front[:, 1] > 0.5).all()


def test_axis_reaches_beyond_both_ends():
    spine = make_spine(3)
    axis = axis_of(spine)
    for end, centre, sign in ((0, spine.centres[0], 1), (-1, spine.centres[-1], -1)):
        assert sign * (axis.points[end, 2] - centre[2]) == pytest.approx(12.5 + MARGIN_MM, abs=2.5)


def test_no_body_has_no_axis():
    assert find_axis(np.zeros((8, 9, 10), bool), (1, 1, 1)) is None
    assert not spine_bodies(np.zeros((8, 9, 10)), (1, 1, 1)).any()


@pytest.mark.parametrize("slices", [1, 2])
def test_axis_of_few_slices_points_to_the_feet(slices):
    axis = find_axis(np.ones((10, 10, slices), bool), (2.0, 2.0, 5.0))
    assert axis is not None
    assert (axis.tangents[:, 2] < -0.9).all()
    assert np.isfinite(axis.points).all()


def test_axis_bridges_vertebrae_that_were_not_detected():
    spine = make_spine(6, kyphosis=20.0)
    spine.body[spine.labels == 3] = 0
    axis = axis_of(spine)
    assert np.linalg.norm(axis.points - spine.centres[2], axis=1).min() < 6.0


def test_detections_away_from_the_spine_are_left_out():
    spine = make_spine(4, margin=(60.0, 30.0, 20.0))
    ghost = spine.body.copy()
    ghost[2:14, 30:42, 10:22] = 0.9  # about 14 ml, beside the spine
    bodies = spine_bodies(ghost, spine.spacing)
    assert np.array_equal(bodies, spine_bodies(spine.body, spine.spacing))
    assert np.array_equal(bodies, spine.body > 0.5)


def test_specks_are_left_out_and_a_part_at_the_border_kept():
    body = np.zeros((40, 40, 60))
    body[10:30, 10:30, 0:10] = 1  # 4 ml
    body[10:20, 10:20, 30:36] = 1  # 0.6 ml
    assert not spine_bodies(body, (1, 1, 1))[:, :, 30:36].any()
    body[10:30, 10:30, 57:60] = 1  # 1.2 ml
    body[10:20, 10:17, 57:60] = 1
    assert spine_bodies(body, (1, 1, 1))[:, :, :10].all(axis=2)[10:30, 10:30].all()


def test_profile_is_high_in_bodies_and_low_in_discs():
    spine = make_spine(5, kyphosis=30.0, gap=7.0)
    axis = axis_of(spine)
    profile, normals = disc_profile(spine.body.astype(np.float32), axis, spine.spacing)
    nearest = np.linalg.norm(spine.centres[:, None] - axis.points, axis=-1).argmin(axis=1)
    assert profile[nearest].min() > 0.95
    for above, below in itertools.pairwise(nearest):
        assert profile[above:below].min() < 0.2
    assert profile[[0, -1]].max() < 0.05
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("tilt", [-16.0, 16.0])
def test_normal_of_an_inclined_disc(tilt):
    """A plane of low probability through a solid column, inclined in the sagittal plane."""
    shape = (40, 40, 80)
    _, a, s = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    plane = (s - 40 - (a - 20) * np.tan(np.radians(tilt))) * np.cos(np.radians(tilt))
    body = np.where(abs(plane) < 1, 0.0, 1.0)
    axis = find_axis(np.ones(shape, bool), (1, 1, 1))
    assert axis is not None
    profile, normals = disc_profile(body, axis, (1, 1, 1))
    at = int(np.linalg.norm(axis.points - [20, 20, 40], axis=1).argmin())
    assert profile[at] < 0.15
    expected = np.array([0, np.sin(np.radians(tilt)), -np.cos(np.radians(tilt))])
    assert np.degrees(np.arccos(min(float(normals[at] @ expected), 1.0))) < 4.5


@pytest.mark.parametrize(("half_width", "half_depth"), [(12.0, 8.0), (19.0, 15.0), (25.0, 17.0)])
def test_width_is_the_root_of_the_area_of_the_body(half_width, half_depth):
    spine = make_spine(5, half_width=half_width, half_depth=half_depth)
    axis = axis_of(spine)
    width = body_width(spine.body > 0.5, axis, spine.spacing)
    middle = int(np.linalg.norm(axis.points - spine.centres[2], axis=1).argmin())
    expected = np.sqrt(np.pi * half_width * half_depth)
    assert width[middle] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("tilt", [-35.0, 35.0])
def test_axis_follows_a_tilted_last_body(tilt):
    """Planes through its lower corner hold no more than that corner, on the side to which the axis must not turn."""
    spacing, grid = (2.0, 2.0, 2.0), np.indices((40, 60, 70)).astype(float)
    front, height = (grid[1] - 30) * 2.0, (grid[2] - 45) * 2.0
    upper = (np.abs(front) < 17) & (np.abs(height) < 14) & (np.abs(grid[0] - 20) * 2 < 22)
    sine, cosine = np.sin(np.radians(tilt)), np.cos(np.radians(tilt))
    across, along = (front - 12 * sine) * cosine - (height + 38) * sine, (front - 12 * sine) * sine + (height + 38) * cosine
    lower = (np.abs(across) < 17) & (np.abs(along) < 14) & (np.abs(grid[0] - 20) * 2 < 22)
    axis = find_axis(upper | lower, spacing)
    assert axis is not None
    end = axis.tangents[-8]
    # The body's own axis, towards the feet, is inclined by the tilt; the curve must lean to the same side.
    assert end[1] * -sine > -0.05
