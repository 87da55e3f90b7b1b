# SPDX-License-Identifier: Apache-2.0
"""Panes name plane and position, have directions at their edges and a scale bar of true length, and labels that do not overlap."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from scripts.visualization.overlay import draw_overlay
from scripts.visualization.panes import (
    BAR_TOP,
    FINDING_COLOURS,
    LINE_HEIGHT,
    NOTHING,
    Region,
    clear_of,
    finding_colour,
    label_regions,
    mark_pane,
    position_text,
    slice_title,
    spread,
)
from scripts.visualization.slices import isotropic, ras_affine, ras_volume, show_slice


def pane(axis: int, shape=(120, 100), spacing=(1.0, 1.0)):
    axes = Figure(figsize=(3, 3)).subplots()
    show_slice(axes, np.zeros(shape), spacing)
    mark_pane(axes, axis, "title")
    return axes


@pytest.mark.parametrize(("axis", "letters"), [(0, "APSI"), (1, "RLSI"), (2, "RLAP")])
def test_letters_stand_at_the_edges_they_name(axis, letters):
    texts = {t.get_text(): t.get_position() for t in pane(axis).texts}
    left, right, top, bottom = (texts[letter] for letter in letters)
    assert left[0] < 0.1 < 0.9 < right[0]
    assert bottom[1] < 0.1 < 0.9 < top[1]


@pytest.mark.parametrize(("width", "bar"), [(200, 50), (120, 20), (40, 10), (6, 2)])
def test_scale_bar_has_the_length_that_it_names(width, bar):
    axes = pane(0, (width, width))
    (line,) = (line for line in axes.lines if line.get_gid() == "scale bar")
    assert abs(np.ptp(line.get_xdata())) == bar
    assert (f"{bar // 10} cm" if bar >= 10 else f"{bar} mm") in {t.get_text() for t in axes.texts}
    assert axes.get_xlim() == (width, 0)  # marks leave the view as it is


def test_position_is_that_of_the_scan_for_any_storage():
    affine = np.diag([2.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = [-20, 5, -7]
    stored = nib.Nifti1Image(np.zeros((10, 12, 14), np.float32), affine)
    turned = stored.as_reoriented(nib.orientations.axcodes2ornt("LPI"))
    for image in (stored, turned):
        shape = ras_volume(image)[0].shape
        assert slice_title(ras_affine(image), shape, 0, 3) == "sagittal, L 14.0 mm"
        assert slice_title(ras_affine(image), shape, 2, 13) == "axial, S 32.0 mm"
    assert position_text(1, -0.04) == "A 0.0 mm"


def test_pixels_become_square_and_keep_the_field_of_view():
    plane = np.arange(20.0)[:, None] * np.ones(10)
    square, pixel = isotropic(plane, (1.0, 3.0))
    assert (square.shape, pixel) == ((20, 30), 1.0)
    np.testing.assert_allclose(square, plane[:, :1] * np.ones(30), atol=1e-4)
    same, _ = isotropic(plane, (1.0, 1.0))
    assert same is plane
    labels, _ = isotropic(np.array([[1, 3], [1, 3]], np.uint8), (1.0, 2.0), order=0)
    assert set(np.unique(labels)) == {1, 3}


def test_findings_have_colours_of_their_own():
    assert len({finding_colour(n) for n in range(1, 8)}) == len(FINDING_COLOURS) == 7
    assert finding_colour(8) == finding_colour(1)


def test_labels_of_neighbours_do_not_overlap():
    positions = spread([10.0, 9.9, 9.8, 2.0], 1.0)
    assert (positions[:-1] - positions[1:] >= 0.99).all()
    assert positions[-1] == pytest.approx(2.0)
    axes = pane(1)
    regions = []
    for k in range(3):
        mask = np.zeros((120, 100), bool)
        mask[30:40, 50 + k : 52 + k] = True
        regions.append(Region(mask, f"T{k + 9}", "#ffffff"))
    before = len(axes.texts)
    label_regions(axes, [*regions, Region(np.zeros((120, 100), bool), "absent", "#ffffff")], (1.0, 1.0))
    heights = sorted(t.get_position()[1] for t in axes.texts[before:])
    assert len(heights) == 3
    assert min(np.diff(heights)) > 4


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_keep_off_the_marks_of_the_edges(side):
    axes, regions = pane(1, (100, 100)), []
    before = len(axes.texts)
    for k, v in enumerate((1, 3, 48, 50, 52)):
        mask = np.zeros((100, 100), bool)
        mask[slice(85, 99) if side == "right" else slice(1, 15), v : v + 2] = True
        regions.append(Region(mask, f"T{k + 8}", "#ffffff"))
    label_regions(axes, regions, (1.0, 1.0))
    low, high = sorted(axes.get_ylim())
    heights = np.sort([(t.get_position()[1] - low) / (high - low) for t in axes.texts[before:]])
    gap = 0.99 * LINE_HEIGHT * 8.0
    assert len(heights) == 5
    assert min(abs(heights - 0.5)) >= gap  # the letters of R and L
    assert min(np.diff(heights)) >= gap
    if axes.texts[before].get_ha() == "right":  # on the left, above the scale bar
        assert heights[0] > BAR_TOP


def test_name_of_an_oblique_vertebra_stands_beside_its_near_part():
    axes, mask = pane(0, (100, 100)), np.zeros((100, 100), bool)
    mask[50:70, 70:80] = True  # the body; the front has the larger coordinate
    mask[5:25, 20:40] = True  # the spinous process
    before = len(axes.texts)
    label_regions(axes, [Region(mask, "T12", "#ffffff")], (1.0, 1.0))
    (text,) = axes.texts[before:]
    assert text.get_ha() == "right"  # left of the body
    assert 70 <= text.get_position()[1] <= 80


def test_heights_without_a_conflict_stay():
    np.testing.assert_array_equal(clear_of([90.0, 70.0, 30.0], 5.0, 50.0, 10.0), [90.0, 70.0, 30.0])
    assert clear_of([51.0, 49.0, 2.0], 5.0, 50.0, 10.0).tolist() == [55.0, 45.0, 10.0]
    assert len(clear_of([], 5.0, 50.0, 10.0)) == 0
    crowded = clear_of(np.linspace(50, 20, 12), 5.0, 50.0, 40.0)  # more names than fit above the scale bar
    assert (np.diff(crowded) <= -4.99).all()


def test_overlay_states_that_nothing_is_marked():
    rng, empty = np.random.default_rng(0), np.zeros((20, 20, 20), bool)
    ct, some = rng.normal(0, 300, (20, 20, 20)), empty.copy()
    some[5:10, 5:10, 5:10] = True
    nothing = draw_overlay(ct, np.eye(4), {"reference": empty, "prediction": empty}, "scan")
    assert NOTHING in nothing.get_suptitle()
    missed = draw_overlay(ct, np.eye(4), {"reference": some, "prediction": empty}, "scan")
    assert NOTHING not in missed.get_suptitle()
    assert [t.get_text() for t in missed.legends[0].get_texts()] == ["reference, 0.1 ml", "prediction: nothing marked"]
    assert all(a.get_legend() is None for a in missed.axes)  # beside the anatomy
    assert all(a.get_title().startswith("sagittal, ") for a in missed.axes)


def test_many_names_are_not_moved_out_of_the_pane():
    axes, regions = pane(1, (100, 100)), []
    for k in range(17):
        mask = np.zeros((100, 100), bool)
        mask[1:15, 40 + k : 41 + k] = True
        regions.append(Region(mask, str(k), "#ffffff"))
    before = len(axes.texts)
    label_regions(axes, regions, (1.0, 1.0))
    low, high = sorted(axes.get_ylim())
    heights = [t.get_position()[1] for t in axes.texts[before:]]
    assert len(heights) == 17
    assert low <= min(heights)
    assert max(heights) <= high
