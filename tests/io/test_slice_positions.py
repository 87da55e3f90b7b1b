# SPDX-License-Identifier: Apache-2.0
"""Positions of slices against the regular grid, and interpolation of irregular ones onto a straight one."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.io.geometry_rules import GeometryRules
from scripts.io.slice_positions import arrange_slices
from scripts.io.straight_grid import AIR_HU, StraightGrid

AXIAL = np.array([1.0, 0, 0, 0, 1, 0])
SAGITTAL = np.array([0, 1.0, 0, 0, 0, -1])


def stack(number: int = 60, step=(0.0, 0.0, 1.0)) -> np.ndarray:
    return np.array([-30.0, -20.0, 100.0]) + np.arange(number)[:, None] * np.asarray(step)


def arrange(positions, orientation=AXIAL, tolerance_mm=0.5):
    names = [f"{n:03d}.dcm" for n in range(len(positions))]
    return arrange_slices(np.asarray(positions, float), np.asarray(orientation, float), names, "series", tolerance_mm)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, [0.96, 0.28, 0, -0.28, 0.96, 0]])
def test_a_regular_stack_has_no_note_in_any_plane(orientation):
    normal = np.cross(orientation[:3], orientation[3:])
    shuffled = np.random.default_rng(0).permutation(60)
    found = arrange(stack(step=normal * 0.7)[shuffled], orientation)
    assert found.notes == ()
    assert found.distance == pytest.approx(0.7)
    np.testing.assert_array_equal(shuffled[found.order], np.arange(60))


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("shift_mm", [2.0, 20.0, 40.0, 150.0])
@pytest.mark.parametrize("part", [slice(20, 40), slice(30, 60), slice(31, 32)])
def test_slices_beside_the_line_are_refused(direction, shift_mm, part):
    positions = stack()
    positions[part, direction] += shift_mm
    with pytest.raises(ValueError, match=rf"{part.start - 1:03d}\.dcm and {part.start:03d}\.dcm") as refused:
        arrange(positions)
    assert "\n" not in str(refused.value)


def test_the_tolerance_is_an_argument():
    positions = stack()
    positions[20:40, 0] += 0.8
    assert arrange(positions, tolerance_mm=1.0).notes == ()
    with pytest.raises(ValueError, match=r"tolerance 0\.7 mm"):
        arrange(positions, tolerance_mm=0.7)


def test_small_differences_accumulate():
    along = np.concatenate([np.arange(300), 300 + 1.05 * np.arange(300)])
    positions = np.stack([np.zeros(600), np.zeros(600), along], 1)
    (note,) = arrange(positions).notes
    assert "varies from 1.00 to 1.05 mm" in note


def test_rounded_positions_are_regular():
    positions = np.round(stack(600, step=(0.0, 0.0, 0.625)), 1)
    assert arrange(positions).notes == ()


@pytest.mark.parametrize("degrees", [2.0, -20.0, 30.0])
def test_a_tilted_gantry_has_a_note(degrees):
    found = arrange(stack(step=(0.0, np.tan(np.radians(degrees)), 1.0)))
    assert f"tilted by {abs(degrees):.1f} degrees" in found.notes[0]
    assert found.distance == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("positions", "word"),
    [
        (stack(step=(0, 2.0, 1.0)), "more than a gantry allows"),
        (np.delete(stack(), 30, axis=0), r"1 slice\(s\) are missing near 029.dcm"),
        (np.vstack([stack(), stack()[5:6]]), "have the same position"),
        (stack(step=(0, 0, 0.0)), "have the same position"),
    ],
)
def test_gaps_repeats_and_impossible_tilts_are_refused(positions, word):
    with pytest.raises(ValueError, match=word):
        arrange(positions)


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_field_is_exact_on_the_straight_grid(seed):
    """Linear interpolation reproduces a linear field wherever slices cover the grid."""
    rng = np.random.default_rng(seed)
    size, spacing = (11, 9), (0.6, 0.8)
    along = np.concatenate([[0.0], np.cumsum(rng.uniform(0.95, 1.05, 14))])
    offsets = np.stack([along * rng.uniform(-0.5, 0.5), along * rng.uniform(-0.5, 0.5), along], 1)
    grid = StraightGrid.plan(size, spacing, offsets, along[-1] / 14)
    slope = rng.uniform(-50, 50, 3)

    def field(columns, rows, slices):
        return 100 + slope[0] * columns + slope[1] * rows + slope[2] * slices

    c, r = np.arange(size[0]) * spacing[0], np.arange(size[1])[:, None] * spacing[1]
    stored = np.stack([field(c + x, r + y, z) for x, y, z in offsets])
    values = np.concatenate(list(grid.slabs(lambda a, b: stored[a:b], depth=4)))
    assert values.shape == grid.shape[::-1]
    c, r = grid.first[0] + np.arange(grid.shape[0]) * spacing[0], grid.first[1] + np.arange(grid.shape[1])[:, None] * spacing[1]
    expected = np.stack([field(c, r, n * grid.distance) for n in range(grid.shape[2])])
    covered = values != AIR_HU
    assert covered.mean() > 0.2
    error = np.abs(values - expected)[covered]
    assert np.median(error) < 0.05
    assert error.max() <= abs(slope[2]) * 1.05 + 0.1  # where one neighbour alone covers a pixel: that of the other slice


def test_every_stored_pixel_lies_inside_the_straight_grid():
    offsets = np.stack([np.zeros(20), np.linspace(0, 12.4, 20), np.arange(20.0)], 1)
    grid = StraightGrid.plan((30, 40), (1.0, 1.0), offsets, 1.0)
    values = np.concatenate(list(grid.slabs(lambda a, b: np.full((b - a, 40, 30), 7, np.int16), depth=16)))
    assert grid.shape == (30, 53, 20)
    assert set(np.unique(values)) == {np.float32(AIR_HU), np.float32(7)}
    assert ((values == 7).sum(axis=(1, 2)) >= 39 * 30).all()


@pytest.mark.parametrize(
    "rules",
    [{"assume_orientation": v} for v in ("RA", "RRS", "XYZ", "", 5)] + [{"position_tolerance_mm": v} for v in (0, -1, "a", np.nan)],
)
def test_rules_out_of_range_are_one_line(rules):
    with pytest.raises(ValueError, match=next(iter(rules))):
        GeometryRules(**rules)


@pytest.mark.parametrize("code", ["RAS", "lps", "PIR", "SAL"])
def test_the_assumed_affine_has_the_assumed_directions(code):
    import nibabel as nib

    affine = GeometryRules(assume_orientation=code).assumed_affine(np.array([0.5, 1.0, 3.0]))
    assert "".join(nib.aff2axcodes(affine)) == code.upper()
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), [0.5, 1.0, 3.0])
