# SPDX-License-Identifier: Apache-2.0
"""Frame of a vertebra: right-handed axes, also beside a truncated neighbour."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scripts.postprocessing.vertebra_frame import find_frame, frame_points, sample_frame
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.spine_scan import SpineScan
from scripts.simulation.style import ScanStyle

L3 = 22


@pytest.fixture(scope="module")
def scan() -> SpineScan:
    return make_phantom(4, "lumbar", ScanStyle(spacing=(2.0, 1.25, 1.25)))


def test_frame_axes_of_a_tilted_body(scan):
    frame = find_frame(scan.labels, scan.affine, L3, 21, 23)
    np.testing.assert_allclose(frame.axes.T @ frame.axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(frame.axes) == pytest.approx(1.0)
    assert frame.axes[2, 2] > 0.85
    assert frame.axes[1, 1] > 0.85
    assert 20 < frame.heights.mean < 34


def test_frame_ignores_a_truncated_neighbour(scan):
    # Only the spinous process of the vertebra above is left, as at the top of a scan.
    labels = scan.labels.copy()
    above = np.argwhere(labels == 21)
    body = above[above[:, 1] > np.percentile(above[:, 1], 25)]
    labels[tuple(body.T)] = 0
    whole, cut = (find_frame(mask, scan.affine, L3, 21, 23) for mask in (scan.labels, labels))
    assert np.degrees(np.arccos(np.clip(whole.axes[:, 2] @ cut.axes[:, 2], -1, 1))) < 12


@pytest.mark.parametrize("smooth", [False, True])
def test_samples_of_a_frame_equal_those_at_its_points(scan, smooth):
    frame = find_frame(scan.labels, scan.affine, L3, 21, 23)
    volume = (scan.labels == L3).astype(np.float32)
    if smooth:  # a probability, small everywhere
        volume = ndimage.gaussian_filter(volume, 1.0) + np.float32(0.001)
    points = frame_points(frame.centre, frame.axes, scan.affine)
    expected = ndimage.map_coordinates(volume, points, order=1)
    found = sample_frame(volume, frame.centre, frame.axes, scan.affine)
    assert found.shape == expected.shape
    assert np.abs(found - expected)[expected > 0.02].max() < 1e-5
    assert np.abs(found - expected).max() < 0.02


def test_frame_of_nothing_is_empty(scan):
    frame = find_frame(scan.labels, scan.affine, L3, 21, 23)
    assert not sample_frame(np.zeros(scan.labels.shape, np.float32), frame.centre, frame.axes, scan.affine).any()
