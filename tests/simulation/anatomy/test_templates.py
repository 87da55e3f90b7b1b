# SPDX-License-Identifier: Apache-2.0
"""Templates of vertebrae: volume kept, resized to a level, deformed a little, refused without a body."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.simulation.anatomy.surfaces import read_person
from scripts.simulation.anatomy.templates import Vertebra, Warp, neighbours, read_templates, sample_deformation
from scripts.simulation.anatomy.voxels import STEP_MM
from scripts.simulation.phantom.anatomy import SIZES
from scripts.simulation.phantom.vertebra import Grid, Pose
from skimage.measure import marching_cubes
from surface_files import FRONT_UP_RIGHT, write_person, write_stl

STILL = Warp(*(np.zeros(s, np.float32) for s in ((1, 3), (1,), (1, 3))))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = write_person(tmp_path_factory.mktemp("person"), ("L3",), FRONT_UP_RIGHT, unit=0.001)
    return read_templates(str(folder))["L3"][0], read_person(folder)["L3"]


def _points(spacing: float = 1.0) -> tuple[np.ndarray, ...]:
    grid = Grid(np.array([-60.0, -90.0, -60.0]), np.full(3, spacing), (120, 125, 115))
    return grid.local((slice(0, 120), slice(0, 125), slice(0, 115)), Pose(np.zeros(3)))


def _own_size(template, **changes):
    width, depth, height = template.size
    return replace(SIZES["L3"], **{"width": width / 0.93, "depth": depth, "height": height} | changes)


def test_a_template_has_the_volume_of_its_surface(template):
    made, surface = template
    assert (made.surface.distance < 0).sum() == pytest.approx((surface.distance < 0).sum(), rel=0.01)
    vertebra = Vertebra("L3", _own_size(made), [(made, 1.0)], [(made, 1.0)], STILL)
    volume = (vertebra.distance(_points()) < 0).sum()
    assert volume == pytest.approx((surface.distance < 0).sum() * STEP_MM**3, rel=0.03)


def test_a_vertebra_has_the_size_of_its_level(template):
    made, _ = template
    points = _points()
    extents = []
    for factor in (1.0, 1.2):
        size = _own_size(made, width=made.size[0] / 0.93 * factor, height=made.size[2] * factor)
        inside = Vertebra("L3", size, [(made, 1.0)], [(made, 1.0)], STILL).distance(points) < 0
        body = inside & (np.abs(points[0]) < 3) & (points[1] > -8)
        extents.append([np.ptp(p[body]) for p in points] + [np.ptp(points[0][inside & (points[1] > 0)])])
    (_, depth, height, width), (_, same, higher, wider) = extents
    assert higher / height == pytest.approx(1.2, abs=0.06)
    assert wider / width == pytest.approx(1.2, abs=0.04)
    assert same == pytest.approx(depth, abs=1.01)


def test_processes_keep_their_length_on_a_wide_body(template):
    made, _ = template
    points = _points()
    tips = []
    for width, processes in ((1.0, 1.0), (1.2, 1.0), (1.0, 1.2)):
        size = _own_size(made, width=made.size[0] / 0.93 * width)
        inside = Vertebra("L3", size, [(made, 1.0)], [(made, 1.0)], STILL, processes=processes).distance(points) < 0
        tips.append([points[0][inside].max(), points[1][inside].min()])
    (tip, back), (beside, same), (longer, further) = tips
    assert beside - tip == pytest.approx(0.1 * made.size[0], abs=1.5)
    assert same == back
    assert longer - tip == pytest.approx(0.2 * (tip - made.size[0] / 2), abs=1.5)
    assert further - back == pytest.approx(0.2 * (back + made.size[1] / 2), abs=1.5)


def test_deformations_differ_and_are_small(template):
    made, _ = template
    points = _points()
    size = _own_size(made)
    inside = [
        Vertebra("L3", size, [(made, 1.0)], [(made, 1.0)], sample_deformation(np.random.default_rng(seed))).distance(points) < 0
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(inside[0], inside[1])
    assert not np.array_equal(inside[0], inside[2])
    overlap = 2 * (inside[0] & inside[2]).sum() / (inside[0].sum() + inside[2].sum())
    assert 0.75 < overlap < 0.999


def test_hollow_endplates_and_a_wide_canal_take_bone(template):
    made, _ = template
    x, y, _ = points = _points()
    plain = Vertebra("L3", _own_size(made), [(made, 1.0)], [(made, 1.0)], STILL)
    before = plain.distance(points) < 0
    hollow = replace(plain, concavity=2.0).distance(points) < 0
    middle = (np.abs(x) < 2) & (np.abs(y) < 2)
    lost = np.count_nonzero(before & middle) - np.count_nonzero(hollow & middle)
    assert lost == pytest.approx(4.0 * middle[:, :, 0].sum(), rel=0.35)
    # The rim keeps its height.
    rim = (np.abs(x) < 2) & (np.abs(y - 0.48 * plain.size.depth) < 1.0)
    assert np.count_nonzero(hollow & rim) > 0.95 * np.count_nonzero(before & rim)
    canal = replace(plain, canal=20.0).distance(points) < 0
    assert not (canal & (np.hypot(x, y + (plain.size.depth + 20) / 2) < 9.5)).any()
    np.testing.assert_array_equal(canal & (y > -plain.size.depth / 2 + 1), before & (y > -plain.size.depth / 2 + 1))


def test_neighbours_are_of_one_region():
    assert neighbours("T12") == ["T12", "T11"]
    assert neighbours("L3") == ["L3", "L2", "L4"]
    assert neighbours("S1") == ["S1"]


def test_a_surface_without_a_body_is_one_line(tmp_path):
    axis = np.arange(-40, 41, 2.0)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    ring = np.hypot(np.hypot(x, y) - 25, z) - 5
    vertices, faces, _, _ = marching_cubes(ring, 0.0, spacing=(2.0,) * 3)
    write_stl(tmp_path / "L2.stl", vertices[faces].astype(float))
    with pytest.raises(InputError, match=r"L2: .*remove its surface"):
        read_templates(str(tmp_path))
