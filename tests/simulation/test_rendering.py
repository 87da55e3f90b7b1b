# SPDX-License-Identifier: Apache-2.0
"""CTs rendered around masks: aligned, seeded, also for real masks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from scripts.postprocessing.vertebra_frame import FrameError
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.rendering import render_ct
from scripts.simulation.style import ScanStyle, wide_style


def test_rendered_ct_is_aligned_with_its_mask():
    source = make_phantom(5, "lumbar", ScanStyle(spacing=(2.0, 1.5, 1.5), field_of_view=(70.0, 110.0, 150.0)))
    style = ScanStyle(noise=3.0)
    scan, again, other = (render_ct(source.labels, source.affine, style, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(scan.image, again.image)
    assert not np.array_equal(scan.image, other.image)
    # World coordinates of the bone are those of the mask, in spite of the padding.
    for array, affine in ((source.labels, source.affine), (scan.labels, scan.affine)):
        voxels = np.argwhere((array > 0) & (array < 26))
        world = (affine[:3, :3] @ voxels.T).T + affine[:3, 3]
        np.testing.assert_allclose(world.mean(axis=0), (source.affine @ [*np.argwhere(source.labels > 0).mean(0), 1])[:3], atol=0.1)
    bone = np.median(scan.image[scan.labels > 0])
    assert bone > np.median(scan.image[scan.labels == 0]) + 100
    with pytest.raises(FrameError, match="no vertebral body"):
        render_ct(np.zeros_like(source.labels), source.affine, style, 0)


def test_bones_without_label_change_nothing_else():
    source = make_phantom(5, "lumbar", ScanStyle(spacing=(3.0, 2.5, 2.5), field_of_view=(70.0, 110.0, 130.0)))
    drawn = []

    def nothing(rng, grid, image):
        drawn.append((grid.shape, float(rng.random())))

    def block(rng, grid, image):
        image[:3] = 900.0

    style = ScanStyle(noise=0.0)
    plain, same, other = (render_ct(source.labels, source.affine, style, 1, bones) for bones in (None, nothing, block))
    np.testing.assert_array_equal(plain.image, same.image)
    assert drawn[0][0] == plain.image.shape
    assert (other.image[0] > 500).all()
    np.testing.assert_array_equal(other.image[8:], plain.image[8:])
    np.testing.assert_array_equal(other.labels, plain.labels)


def test_rendering_of_a_verse_mask(tmp_path):
    masks = sorted((SHARED / "data" / "verse_masks_only").rglob("sub-verse010*vert_msk.nii.gz"))
    if not masks:
        pytest.skip("masks of VerSe are not at ../shared/data/verse_masks_only")
    mask = nib.as_closest_canonical(nib.load(masks[0]))
    labels = np.asarray(mask.dataobj).astype(np.uint8)
    affine = np.diag([*(float(z) for z in mask.header.get_zooms()), 1.0])
    scan = render_ct(labels, affine, wide_style(np.random.default_rng(0), "lumbar"), 0)
    assert {20, 21, 22, 23, 24} <= set(np.unique(scan.labels).tolist())
