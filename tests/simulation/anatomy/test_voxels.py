# SPDX-License-Identifier: Apache-2.0
"""Voxels of surfaces: volume and distance of a sphere, small holes, volume kept by smoothing."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.simulation.anatomy.voxels import STEP_MM, distance_map, mean_edge, voxelise
from skimage.measure import marching_cubes

RADIUS = 14.0
CENTRE = np.array([3.3, -7.1, 11.7])


@pytest.fixture(scope="module")
def sphere():
    axis = np.arange(-18, 19, 1.0)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces, _, _ = marching_cubes(np.sqrt(x**2 + y**2 + z**2) - RADIUS, 0.0)
    return (vertices - 18 + CENTRE)[faces].astype(float)


def test_a_sphere_has_its_volume_and_distance(sphere):
    mask, origin = voxelise(sphere)
    assert mask.sum() * STEP_MM**3 == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0) * STEP_MM + origin, CENTRE, atol=0.05)
    surface = distance_map(mask, origin)
    for offset in (7.0, 12.0, 16.0, 18.0):
        direction = np.array([2.0, -1.0, 2.0]) / 3
        assert surface.at((CENTRE + offset * direction)[:, None])[0] == pytest.approx(offset - RADIUS, abs=0.7)


def test_holes_of_a_few_triangles_are_bridged(sphere):
    whole, _ = voxelise(sphere)
    kept = np.ones(len(sphere), bool)
    kept[[10, 900, 2000]] = False
    mask, _ = voxelise(sphere[kept])
    assert mask.shape == whole.shape
    assert (mask != whole).mean() < 1e-3


@pytest.mark.parametrize("smooth", [0.6, 2.0])
def test_smoothing_keeps_the_volume(sphere, smooth):
    mask, origin = voxelise(sphere)
    assert (distance_map(mask, origin, smooth).distance < 0).sum() == pytest.approx(mask.sum(), rel=0.01)


def test_mean_edge_scales_with_the_surface(sphere):
    assert 0.5 < mean_edge(sphere) < 1.5
    assert mean_edge(3 * sphere) == pytest.approx(3 * mean_edge(sphere))
