# SPDX-License-Identifier: Apache-2.0
"""Spacing is invariant under rotation; the offset of two grids is the largest shift of a voxel."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scripts.core.geometry import grid_offset, spacing_of

SHAPE = (7, 9, 11)


def affine(spacing, angles=(0, 0, 0), shift=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize("angles", [(0, 0, 0), (10, -20, 35), (90, 180, 0)])
def test_spacing_does_not_depend_on_the_rotation(angles):
    matrix = affine((0.7, 1.5, 3.0), angles, (5, 6, 7))
    np.testing.assert_allclose(spacing_of(matrix), (0.7, 1.5, 3.0))
    np.testing.assert_allclose(spacing_of(matrix[:3, :3]), nib.affines.voxel_sizes(matrix))
    assert spacing_of(matrix.tolist()).dtype == np.float64


def test_equal_grids_have_no_offset_and_a_shift_is_its_length():
    first = affine((1, 1, 2), (5, 0, 8))
    assert grid_offset(SHAPE, first, first) == 0
    assert grid_offset(SHAPE, first, affine((1, 1, 2), (5, 0, 8), (0, -0.3, 0.1))) == pytest.approx(0.3)


def test_offset_is_the_maximum_over_all_voxels():
    first, second = affine((1, 1, 2)), affine((1.01, 0.99, 2.02), (1, 2, -1), (0.1, 0, 0))
    voxels = np.argwhere(np.ones(SHAPE))
    shifts = nib.affines.apply_affine(first, voxels) - nib.affines.apply_affine(second, voxels)
    assert grid_offset(SHAPE, first, second) == pytest.approx(np.abs(shifts).max())
    assert grid_offset(SHAPE, second, first) == pytest.approx(grid_offset(SHAPE, first, second))
