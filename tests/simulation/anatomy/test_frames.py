# SPDX-License-Identifier: Apache-2.0
"""Frames of surfaces: orientation of the file from the shape, level endplates, sizes in mm."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.simulation.anatomy.frames import person_axes, vertebra_frame
from scripts.simulation.anatomy.surfaces import read_person
from scripts.simulation.phantom.anatomy import SIZES
from scripts.simulation.phantom.vertebra import Pose
from surface_files import FRONT_UP_RIGHT, vertebra_triangles, write_person, write_stl

TURNED = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x to the front, y to the left
UPSIDE_DOWN = np.diag([-1.0, 1.0, -1.0])


@pytest.mark.parametrize("axes", [np.eye(3), FRONT_UP_RIGHT, TURNED, UPSIDE_DOWN], ids=["ras", "movement", "turned", "down"])
@pytest.mark.parametrize("level", ["T8", "L3"])
def test_orientation_follows_the_shape(tmp_path, axes, level):
    np.testing.assert_array_equal(person_axes(read_person(write_person(tmp_path, (level,), axes))), axes)


def test_endplates_of_a_tilted_vertebra_become_level(tmp_path):
    pose = Pose.tilted(np.array([40.0, -80.0, 500.0]), sagittal=18.0, coronal=6.0, axial=-5.0)
    write_stl(tmp_path / "L3.stl", vertebra_triangles("L3") @ pose.axes.T + pose.centre)
    surfaces = read_person(tmp_path)
    assert (person_axes(surfaces) == np.eye(3)).all()
    centre, axes, size = vertebra_frame(surfaces["L3"], np.eye(3))
    np.testing.assert_allclose(centre, pose.centre, atol=2.0)
    for axis in range(3):
        assert np.degrees(np.arccos(np.clip(axes[:, axis] @ pose.axes[:, axis], -1, 1))) < 4
    mean = SIZES["L3"]
    np.testing.assert_allclose(size, [mean.width * 0.93, mean.depth, mean.height - 2], atol=3.5)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1.0)


def test_the_sacrum_has_the_frame_of_its_endplate(tmp_path):
    pose = Pose.tilted(np.zeros(3), sagittal=40.0)
    write_person(tmp_path, ("L5",))
    write_stl(tmp_path / "sacrum.stl", vertebra_triangles("S1") @ pose.axes.T)
    surfaces = read_person(tmp_path)
    _, axes, _ = vertebra_frame(surfaces["S1"], person_axes(surfaces), sacrum=True)
    assert np.degrees(np.arccos(axes[:, 2] @ pose.axes[:, 2])) < 10
    assert abs(axes[0, 2]) < 0.05
