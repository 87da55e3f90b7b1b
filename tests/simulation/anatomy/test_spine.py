# SPDX-License-Identifier: Apache-2.0
"""Articulated spines: levels in order and apart, whole, seeded, from the levels that a folder has."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scripts.core.vertebrae import LABELS, spine_order
from scripts.postprocessing.body_masks import vertebral_bodies
from scripts.simulation.anatomy.ribs import draw_ribs
from scripts.simulation.anatomy.spine import available_levels, available_regions, make_spine
from scripts.simulation.anatomy.templates import read_templates
from scripts.simulation.phantom.vertebra import Grid
from scripts.simulation.style import ScanStyle
from surface_files import FRONT_UP_RIGHT, write_person

LEVELS = ("T11", "T12", "L1", "L2", "L3")
STYLE = ScanStyle(field_of_view=(80.0, 140.0, 260.0))
SPACING = (1.5, 1.5, 1.5)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    root = tmp_path_factory.mktemp("persons")
    write_person(root / "a", LEVELS, FRONT_UP_RIGHT, unit=0.001)
    write_person(root / "b", ("L1", "L2"))
    return read_templates(str(root))


@pytest.fixture(scope="module")
def spine(templates):
    return make_spine(np.random.default_rng(3), templates, "thoracolumbar", STYLE, SPACING)


def test_persons_share_their_levels(templates):
    assert [t.person for t in templates["L1"]] == ["a", "b"]
    assert [t.person for t in templates["T12"]] == ["a"]
    assert available_levels("thoracolumbar", templates) == ["L3", "L2", "L1", "T12", "T11"]
    assert available_regions(templates) == ["lumbar", "thoracolumbar", "thoracic"]
    without = {level: t for level, t in templates.items() if level != "L1"}
    assert available_levels("thoracolumbar", without) in (["L3", "L2"], ["T12", "T11"])
    assert available_regions(without) == []


def test_vertebrae_are_in_order_and_whole(spine):
    order = spine_order(spine.labels)
    assert order == [LABELS[level] for level in LEVELS]
    heights = [np.argwhere(spine.labels == v)[:, 2].mean() for v in order]
    assert heights == sorted(heights, reverse=True)
    for vertebra in order:
        parts, count = ndimage.label(spine.labels == vertebra)
        sizes = np.bincount(parts.ravel())[1:]
        assert count == 1 or sizes.max() > 0.98 * sizes.sum()
    bodies, unknown = vertebral_bodies(spine.labels, spine.affine, order)
    assert not unknown
    assert 0.2 < bodies.sum() / (spine.labels > 0).sum() < 0.85


def test_bodies_are_at_their_poses(spine):
    for level, pose in spine.poses.items():
        index = (pose.centre - spine.affine[:3, 3]) / SPACING
        assert spine.labels[tuple(np.round(index).astype(int))] == LABELS[level]


def test_neighbours_do_not_touch(spine):
    for lower, upper in itertools.pairwise(spine_order(spine.labels)):
        grown = ndimage.binary_dilation(spine.labels == lower)
        assert not (grown & (spine.labels == upper)).sum() > 30


def test_seeds_make_equal_and_different_spines(templates, spine):
    again, other = (make_spine(np.random.default_rng(s), templates, "thoracolumbar", STYLE, SPACING) for s in (3, 4))
    np.testing.assert_array_equal(spine.labels, again.labels)
    assert spine.labels.shape != other.labels.shape or not np.array_equal(spine.labels, other.labels)


def test_the_field_of_view_cuts_the_spine(templates):
    style = replace(STYLE, field_of_view=(80.0, 140.0, 60.0))
    cut = make_spine(np.random.default_rng(3), templates, "thoracolumbar", style, SPACING)
    assert cut.labels.shape[2] * SPACING[2] <= 62
    assert 1 <= len(spine_order(cut.labels)) < len(LEVELS)


def test_ribs_touch_thoracic_vertebrae_only(spine):
    grid = Grid(spine.affine[:3, 3], np.array(SPACING), spine.labels.shape)
    image = np.zeros(grid.shape, np.float32)
    draw_ribs(np.random.default_rng(0), grid, spine.poses, spine.sizes, STYLE, image)
    bone = image > 60
    assert bone.any()
    near = ndimage.binary_dilation(bone, iterations=2)
    for level in LEVELS:
        touches = (near & (spine.labels == LABELS[level])).any()
        assert touches == level.startswith("T") or level == "L1"
    columns = np.flatnonzero(bone.any(axis=(1, 2)))
    middle = (spine.poses["T12"].centre[0] - grid.origin[0]) / SPACING[0]
    assert columns.min() < middle - 12 < middle + 12 < columns.max()
