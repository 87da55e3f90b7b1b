# SPDX-License-Identifier: Apache-2.0
"""Fractures are simulated only between discs that are seen in the CT."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.postprocessing.vertebra_frame import FrameError
from scripts.simulation.fracture.disc_visibility import MAX_DISC_HU, disc_hu, require_visible_discs
from scripts.simulation.fracture.sampling import add_fractures, whole_vertebrae
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.spine_scan import SpineScan

L3 = 22


@pytest.fixture(scope="module")
def scan() -> SpineScan:
    return make_phantom(3, "lumbar")


def without_discs(scan: SpineScan) -> SpineScan:
    """The scan with the HU of bone around its vertebrae."""
    return SpineScan(np.where(scan.labels == 0, 180, scan.image).astype(np.int16), scan.labels, scan.affine)


def test_discs_of_a_phantom_are_seen(scan):
    values = disc_hu(scan, L3)
    assert len(values) == 2
    assert max(values) < MAX_DISC_HU
    require_visible_discs(scan, L3)


def test_only_sides_with_a_neighbour_count(scan):
    alone = SpineScan(scan.image, np.where(scan.labels == L3, L3, 0).astype(scan.labels.dtype), scan.affine)
    assert disc_hu(alone, L3) == []
    require_visible_discs(alone, L3)


def test_disc_values_are_independent_of_orientation(scan):
    turn = np.array([[1, -1], [2, 1], [0, -1]])
    image = nib.Nifti1Image(scan.image, scan.affine).as_reoriented(turn)
    labels = nib.Nifti1Image(scan.labels, scan.affine).as_reoriented(turn)
    other = SpineScan(np.asarray(image.dataobj), np.asarray(labels.dataobj), labels.affine)
    np.testing.assert_allclose(disc_hu(other, L3), disc_hu(scan, L3), atol=1.0)


def test_discs_with_the_density_of_bone_are_refused(scan):
    with pytest.raises(FrameError, match=r"vertebra 22: a disc beside it has 1\d\d HU, more than 150.*use thinner slices"):
        require_visible_discs(without_discs(scan), L3)


def test_no_fracture_is_placed_between_discs_that_are_not_seen(scan):
    dense = without_discs(scan)
    assert whole_vertebrae(dense.labels, dense.affine)
    for visible, expected in ((True, 0), (False, 1)):
        found = add_fractures(dense, np.random.default_rng(0), 1, ("crush",), (2,), visible_discs=visible)
        assert len(found.fractures) == expected
        assert (found.image is dense.image) == visible
