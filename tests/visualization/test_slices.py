# SPDX-License-Identifier: Apache-2.0
"""Slices: indices through a mask, radiological orientation, physical aspect, outlines in place."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scripts.visualization.overlay import draw_overlay
from scripts.visualization.slices import (
    BONE_WINDOW,
    COLOURS,
    choose_slices,
    largest_slice,
    outline,
    ras_volume,
    show_slice,
    window_of,
)


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def drawn(plane, spacing, mask=None, **options) -> np.ndarray:
    """Pixels of a plane that fills the picture, 40 per mm of a field of 4 x 4 inches at most."""
    figure = Figure(figsize=(4, 4), dpi=100, facecolor="blue")
    axes = figure.add_axes((0, 0, 1, 1))
    show_slice(axes, plane, spacing)
    if mask is not None:
        outline(axes, mask, spacing, **options)
    return pixels(figure)


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PIR", "SAL"])
def test_canonical_volume_does_not_depend_on_the_storage(axes):
    data, affine = np.arange(60).reshape(3, 4, 5), np.diag([0.5, 1.0, 3.0, 1.0])
    to = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axes)))
    stored = nib.Nifti1Image(data.astype(np.int16), affine).as_reoriented(to)
    volume, spacing = ras_volume(stored)
    np.testing.assert_array_equal(volume, data)
    np.testing.assert_allclose(spacing, (0.5, 1.0, 3.0))


def test_slices_pass_through_the_mask_and_spread_over_it():
    mask = np.zeros((40, 6, 6), bool)
    mask[10:20] = True
    mask[15] = False
    indices = choose_slices(mask, 3)
    assert indices == sorted(set(indices))
    assert len(indices) == 3
    assert all(mask[i].any() for i in indices)
    mask[12, 0] = False
    mask[16:20, :3] = False
    assert mask[largest_slice(mask)].sum() == mask.sum(axis=(1, 2)).max()


@pytest.mark.parametrize("width", [1, 2, 9, 40])
def test_an_empty_mask_is_shown_around_the_middle(width):
    empty = np.zeros((width, 5, 5), bool)
    indices = choose_slices(empty, 3)
    assert indices
    assert all(0 <= i < width for i in indices)
    assert width // 2 in indices
    assert largest_slice(empty) == width // 2


def test_pictures_of_eight_bits_have_their_own_window():
    assert window_of(np.array([0, 255])) == (0.0, 255.0)
    assert window_of(np.array([-5, 200])) == window_of(np.array([0, 300])) == BONE_WINDOW


@pytest.mark.parametrize(("shape", "spacing"), [((40, 20), (1.0, 1.0)), ((20, 20), (2.0, 1.0)), ((40, 10), (0.5, 1.0))])
def test_aspect_is_physical(shape, spacing):
    picture = drawn(np.full(shape, 2000.0), spacing)
    rows, columns = np.nonzero((picture > 0.9).all(axis=-1))
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert width / height == pytest.approx(shape[0] * spacing[0] / (shape[1] * spacing[1]), rel=0.02)


def test_the_first_axis_runs_to_the_left_and_the_second_upwards():
    plane = np.full((20, 20), -1000.0)
    plane[15:, 15:] = 2000.0  # anterior and cranial, or right and cranial
    bright = (drawn(plane, (1.0, 1.0)) > 0.9).all(axis=-1)
    rows, columns = np.nonzero(bright)
    assert rows.max() < 200
    assert columns.max() < 200


def test_the_window_maps_to_black_and_white():
    low, high = (drawn(np.full((4, 4), v), (1.0, 1.0))[200, 200] for v in BONE_WINDOW)
    assert (low == 0).all()
    assert (high == 1).all()


@pytest.mark.parametrize("name", sorted(COLOURS))
def test_the_outline_encloses_the_mask_in_its_colour(name):
    mask = np.zeros((20, 20), bool)
    mask[4:9, 11:17] = True
    picture = drawn(np.full((20, 20), -1000.0), (1.0, 1.0), mask, name=name, width=2)
    rows, columns = np.nonzero(np.abs(picture - to_rgb(COLOURS[name])).max(axis=-1) < 0.1)
    pixel = 400 / 20
    # The line runs half a pixel outside the centres of the border; the first axis is mirrored.
    assert [columns.min(), columns.max()] == pytest.approx([(20 - 9) * pixel, (20 - 4) * pixel], abs=pixel / 4)
    assert [rows.min(), rows.max()] == pytest.approx([(20 - 17) * pixel, (20 - 11) * pixel], abs=pixel / 4)


def test_an_empty_mask_draws_nothing_and_a_fill_is_inside():
    plane, mask = np.full((20, 20), -1000.0), np.zeros((20, 20), bool)
    np.testing.assert_array_equal(drawn(plane, (1.0, 1.0)), drawn(plane, (1.0, 1.0), mask))
    mask[5:15, 5:15] = True
    assert drawn(plane, (1.0, 1.0), mask)[200, 200].max() == 0
    filled = drawn(plane, (1.0, 1.0), mask, fill=0.5)[200, 200]
    np.testing.assert_allclose(filled, np.array(to_rgb(COLOURS["prediction"])) / 2, atol=0.02)


def test_an_overlay_does_not_depend_on_the_orientation():
    rng = np.random.default_rng(0)
    ct, mask = rng.normal(300, 200, (12, 20, 24)), np.zeros((12, 20, 24), bool)
    mask[4:8, 5:11, 9:20] = True
    affine = np.diag([1.5, 0.8, 1.0, 1.0])
    first = pixels(draw_overlay(ct, affine, {"reference": mask, "ignored": mask[::-1]}, "title"))
    turned = affine @ np.array([[0, 0, -1, 11], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    again = [v.transpose(1, 2, 0)[:, :, ::-1] for v in (ct, mask, mask[::-1])]
    second = pixels(draw_overlay(again[0], turned, {"reference": again[1], "ignored": again[2]}, "title"))
    np.testing.assert_array_equal(first, second)


def test_an_overlay_without_masks_has_the_number_of_slices():
    figure = draw_overlay(np.random.default_rng(0).normal(0, 300, (30, 10, 10)), np.eye(4), {}, number=5)
    assert len(figure.axes) == 5
    assert figure.axes[0].get_legend() is None
