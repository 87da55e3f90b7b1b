# SPDX-License-Identifier: Apache-2.0
"""CTs rendered around masks: aligned, seeded, also for real masks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from scipy import ndimage
from scripts.postprocessing.vertebra_frame import FrameError
from scripts.simulation.bone_surface import ARCH_CORTEX_MM, MARGIN_MM, THIN, BoneSurface, sample_surface
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.phantom.soft_tissue import HU, perivertebral_muscle
from scripts.simulation.phantom.vertebra import Grid
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


def _shells(scan, spacing):
    """Mean HU of bodies and arches in shells of 0 to 1, 1 to 2 and 2 to 3 mm below the surface of their masks."""
    depth = ndimage.distance_transform_edt(scan.labels > 0, sampling=spacing)
    means = np.zeros((2, 3))
    for k in range(3):
        shell = (depth > k) & (depth <= k + 1)
        y = np.arange(scan.labels.shape[1])[None, :, None] * spacing
        wall = 0.5 * (y.min() + y.max())
        for row, part in enumerate((y > wall, y < wall - 8)):
            means[row, k] = scan.image[shell & part].mean()
    return means


def test_cortex_lies_below_the_surface_of_the_mask():
    # As in real CT: masks reach beyond the cortex, and arches have more of it.
    labels = np.zeros((40, 70, 60), np.uint8)
    labels[8:32, 38:62, 18:44] = 22
    labels[10:30, 10:24, 24:38] = 22

    def mean_shells(surface):
        scans = [render_ct(labels, np.eye(4), ScanStyle(noise=0.0), seed, surface=surface) for seed in range(3)]
        return np.mean([_shells(scan, 1.0) for scan in scans], axis=0)

    thin, thick = mean_shells(THIN), mean_shells(BoneSurface(margin_mm=0.6, arch_cortex_mm=0.8))
    assert (thick[:, 0] < thin[:, 0] - 100).all()  # the outermost millimetre is partly soft tissue
    assert thick[1, 1] > thin[1, 1] + 50  # more cortex behind the body
    assert thick[1, 1] > thick[0, 1] + 50
    np.testing.assert_allclose(thin[0, 1:], thin[1, 1:], rtol=0.35)  # equal everywhere


def test_surfaces_are_seeded_and_in_range():
    drawn = [sample_surface("thick", seed) for seed in range(60)]
    assert drawn[7] == sample_surface("thick", 7)
    assert sample_surface("thin", 7) == THIN == BoneSurface()
    for values, (low, high) in (([s.margin_mm for s in drawn], MARGIN_MM), ([s.arch_cortex_mm for s in drawn], ARCH_CORTEX_MM)):
        assert low <= min(values) < low + 0.1 < high - 0.1 < max(values) <= high
    assert 0.6 < np.mean([s.muscle for s in drawn]) < 0.95
    with pytest.raises(ValueError, match="cortex='fat': must be one of thin, thick"):
        sample_surface("fat", 0)


def test_muscle_changes_only_what_is_behind_the_bodies():
    source = make_phantom(5, "lumbar", ScanStyle(spacing=(3.0, 2.5, 2.5), field_of_view=(70.0, 110.0, 130.0)))
    style = ScanStyle(noise=0.0)
    plain = render_ct(source.labels, source.affine, style, 1)
    muscle = render_ct(source.labels, source.affine, style, 1, surface=BoneSurface(muscle=True))
    changed = plain.image != muscle.image
    assert changed[plain.labels == 0].any()
    front = int(np.nonzero(plain.labels.any(axis=(0, 2)))[0].max())
    assert not changed[:, front - 2 :].any()


def test_muscle_lies_on_the_arches():
    rng = np.random.default_rng(3)
    grid = Grid(np.zeros(3), np.ones(3), (30, 60, 20))
    distance = np.broadcast_to(np.abs(np.arange(60) - 30.0)[None, :, None], grid.shape).astype(np.float32)
    behind = (35 - np.arange(60, dtype=np.float32))[None, :, None]  # y of 35 and more is not behind
    image = np.full(grid.shape, HU["fat"] - 100, np.float32)
    image[:5] = HU["air"]
    perivertebral_muscle(rng, image, grid, distance, behind)
    assert (image[:5] == HU["air"]).all()
    image = image[5:]
    changed = image > HU["fat"] - 100
    assert changed[:, 29:32].all()  # on the bone, to be drawn over by it
    assert not changed[:, 38:].any()
    assert image[:, 30].min() > -150
    assert image[:, 30].max() < 100
