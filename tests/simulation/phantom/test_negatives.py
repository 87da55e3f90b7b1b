# SPDX-License-Identifier: Apache-2.0
"""Negatives of phantoms: each is visible, none is a fracture, and scans without them are those of before."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scripts.core.vertebrae import LABELS, spine_order
from scripts.postprocessing.body_heights import measure_vertebrae
from scripts.simulation.negatives import Negatives
from scripts.simulation.phantom.anatomy import SIZES
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.phantom.negatives import MIN_LORDOSIS, VertebralNegatives
from scripts.simulation.style import ScanStyle, Variation, wide_style

STYLE = ScanStyle(spacing=(2.5, 2.0, 2.0), field_of_view=(80.0, 120.0, 150.0), noise=4.0, trabecular=140.0, cortical=700.0)
OF_IMAGE = {  # by region, those that are no part of a vertebra or only a change of its density
    "facet_gas": ("lumbar", {"facet_gas": 1.0}),
    "endplate_sclerosis": ("lumbar", {"endplate_sclerosis": 1.0}),
    "limbus": ("lumbar", {"limbus": 2}),
    "haemangiomas": ("lumbar", {"haemangiomas": 2}),
    "bone_islands": ("lumbar", {"bone_islands": 4}),
    "aorta": ("lumbar", {"aorta": 0.4}),
    "enhancement": ("thoracic", {"enhancement": 250.0}),
    "pelvis": ("lumbar", {"pelvis": True}),
    "rib_joints": ("thoracic", {"rib_joints": 1.0}),
    "chest_wall": ("thoracic", {"chest_wall": True}),
    "gas_pockets": ("lumbar", {"gas_pockets": 4}),
    "bowel_contrast": ("lumbar", {"bowel_contrast": 4}),
    "trunk_and_arms": ("lumbar", {"trunk": 40.0, "arms": True}),
    "table": ("lumbar", {"table": True}),
    "starvation": ("lumbar", {"starvation": 1.5}),
}
OF_SHAPE = {
    "facet_sclerosis": ("lumbar", {"facet_sclerosis": 1.0}),
    "bridges": ("lumbar", {"bridges": 1.0}),
    "schmorl_row": ("lumbar", {"schmorl_row": 4}),
    "scheuermann": ("thoracic", {"scheuermann": 5}),
}


STYLES = {
    "chest_wall": replace(STYLE, field_of_view=(130.0, 120.0, 150.0)),
    "table": replace(STYLE, field_of_view=(80.0, 190.0, 150.0)),
    "starvation": replace(STYLE, noise=50.0),
}


@cache
def scan_of(region: str, negatives: Negatives | None = None, seed: int = 2, wedging: float = 0.0, style: ScanStyle = STYLE):
    return make_phantom(seed, region, replace(style, variation=Variation(wedging=wedging, negatives=negatives)))


@pytest.mark.parametrize("name", OF_IMAGE)
def test_lesions_and_surroundings_change_no_label(name):
    region, options = OF_IMAGE[name]
    style = STYLES.get(name, STYLE)
    scan, without = scan_of(region, Negatives(**options), style=style), scan_of(region, style=style)
    np.testing.assert_array_equal(scan.labels, without.labels)
    assert (np.abs(scan.image.astype(int) - without.image) > 60).sum() > 20
    assert scan.fractures == []


@pytest.mark.parametrize("name", OF_SHAPE)
def test_shapes_change_some_voxels_and_no_height(name):
    region, options = OF_SHAPE[name]
    scan, without = scan_of(region, Negatives(**options)), scan_of(region)
    changed = (scan.labels != without.labels).mean()
    assert 0 < changed < 0.02
    assert scan.fractures == []
    assert spine_order(scan.labels) == spine_order(without.labels)
    order = spine_order(scan.labels)
    now, before = (measure_vertebrae(s.labels, s.affine, order) for s in (scan, without))
    losses = [1 - np.array(now[v].heights_mm) / np.array(before[v].heights_mm) for v in order]
    assert np.isfinite(losses).sum() >= 6
    assert np.nanmax(losses) < 0.15


@pytest.mark.parametrize("seed", [0, 1])
def test_scheuermann_wedging_is_less_than_a_fracture(seed):
    style = replace(STYLE, spacing=(2.0, 1.25, 1.25), field_of_view=(60.0, 110.0, 170.0))
    scan = scan_of("thoracic", Negatives(scheuermann=9), seed, wedging=0.03, style=style)
    measured = measure_vertebrae(scan.labels, scan.affine, spine_order(scan.labels))
    heights = np.array([measured[v].heights_mm for v in measured if LABELS["T5"] <= v <= LABELS["L2"]])
    loss = 1 - heights[:, 0] / heights[:, 2]
    assert np.isfinite(loss).sum() >= 4
    assert np.nanmax(loss) < 0.15
    assert np.nanmean(loss) > 0.02, "no wedging"


def test_wedging_of_scheuermann_vertebrae_is_bounded():
    chosen = VertebralNegatives.assign(0, Negatives(scheuermann=3), ("T10", "T9", "T8", "T7"), {"T9"})
    assert len(chosen.scheuermann) == 3
    assert "T9" not in chosen.scheuermann
    shape = {"lordosis": -0.08, "concavity": 2.0}
    chosen.deform(sorted(chosen.scheuermann)[0], shape, SIZES["T8"])
    assert shape["lordosis"] >= MIN_LORDOSIS


def test_negatives_are_seeded_and_independent_of_each_other():
    both = Negatives(limbus=2, facet_gas=0.5)
    first = VertebralNegatives.assign(7, both, ("L4", "L3", "L2", "L1"), ())
    alone = VertebralNegatives.assign(7, Negatives(limbus=2), ("L4", "L3", "L2", "L1"), ())
    assert first.limbus == alone.limbus
    assert len(first.limbus) == 2
    others = {VertebralNegatives.assign(s, both, ("L4", "L3", "L2", "L1"), ()).limbus for s in range(8)}
    assert len(others) > 1
    assert VertebralNegatives.assign(7, both, (), ()).islands == ()
    again = make_phantom(2, "lumbar", replace(STYLE, variation=Variation(negatives=Negatives(haemangiomas=2))))
    np.testing.assert_array_equal(again.image, scan_of("lumbar", Negatives(haemangiomas=2)).image)


# Mean and standard deviation of the HU, voxels of vertebrae and their mean HU, of the generator before it had negatives.
BEFORE = {
    ("plain", "thoracic"): (-185.435, 412.651, 2573, 160.85),
    ("plain", "lumbar"): (37.124, 164.599, 3889, 150.51),
    ("wide", "thoracic"): (-131.598, 408.663, 2658, 214.76),
    ("wide", "lumbar"): (80.266, 134.994, 4241, 195.58),
}


@pytest.mark.parametrize(("name", "region"), BEFORE)
def test_other_styles_are_those_of_before(name, region):
    sample = {"plain": ScanStyle.random, "wide": wide_style}[name](np.random.default_rng(3), region)
    style = replace(sample, spacing=(4.0, 3.0, 3.0), field_of_view=(80.0, 120.0, 150.0))
    scan = make_phantom(3, region, style)
    bone = scan.labels > 0
    # Rounding of powers differs between processors, so that this is no hash.
    found = (float(scan.image.mean()), float(scan.image.std()), int(bone.sum()), float(scan.image[bone].mean()))
    np.testing.assert_allclose(found, BEFORE[name, region], rtol=2e-4)
    if style.variation is not None:
        off = make_phantom(3, region, replace(style, variation=replace(style.variation, negatives=Negatives())))
        np.testing.assert_array_equal(off.labels, scan.labels)
        np.testing.assert_array_equal(off.image, scan.image)


def test_thick_slices_are_means_of_thin_ones():
    thin = replace(STYLE, spacing=(2.5, 2.0, 1.5), field_of_view=(80.0, 120.0, 148.5), noise=0.0, variation=Variation())
    thick = replace(thin, spacing=(2.5, 2.0, 4.5), slab=3)
    fine, mean = make_phantom(2, "lumbar", thin), make_phantom(2, "lumbar", thick)
    depth = mean.image.shape[2]
    np.testing.assert_allclose(np.diag(mean.affine)[:3], (2.5, 2.0, 4.5))
    slabs = fine.image[:, :, : depth * 3].reshape(*mean.image.shape, 3).mean(axis=3)
    assert np.abs(slabs - mean.image).mean() < 2
    np.testing.assert_array_equal(fine.labels[:, :, 1 : depth * 3 : 3], mean.labels)
    # The centre of a thick slice is that of its middle thin slice.
    assert mean.affine[2, 3] == pytest.approx(fine.affine[2, 3] + 1.5)


@pytest.mark.parametrize("axis", [0, 2])
def test_noise_of_thick_slices_is_that_of_the_style(axis):
    spacing = [2.0, 2.0, 2.0]
    spacing[axis] = 4.5
    style = replace(STYLE, spacing=tuple(spacing), slab=3, variation=Variation(), blur=0.3)
    noisy, clean = (make_phantom(2, "lumbar", replace(style, noise=n)) for n in (30.0, 0.0))
    assert (noisy.image - clean.image.astype(float)).std() == pytest.approx(30, rel=0.1)
