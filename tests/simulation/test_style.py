# SPDX-License-Identifier: Apache-2.0
"""Appearance of phantoms: seeded, varied, and visible in the image."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from scripts.simulation.clinical_style import clinical_style
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle, Variation, wide_style

STYLE = ScanStyle(spacing=(2.0, 1.5, 1.5), field_of_view=(70.0, 130.0, 190.0), noise=4.0)


def scan_of(variation: Variation, seed: int = 3, region: str = "lumbar", **style):
    return make_phantom(seed, region, replace(STYLE, variation=variation, **style))


def test_wide_style_is_seeded_and_varies():
    styles = [wide_style(np.random.default_rng(k), "lumbar") for k in range(40)]
    assert styles[0] == wide_style(np.random.default_rng(0), "lumbar")
    extents = np.array([s.field_of_view for s in styles])
    assert (extents.max(axis=0) > 1.8 * extents.min(axis=0)).all()
    assert {s.variation is not None for s in styles} == {True}
    assert 0 < sum(s.variation.screws > 0 for s in styles) < 15


def test_field_of_view_and_soft_tissue_contrast():
    low, high = (scan_of(Variation(start=s), field_of_view=(70.0, 110.0, 90.0)) for s in (0.0, 1.0))
    assert low.labels.max() > high.labels[high.labels > 0].min()
    assert high.labels.max() < low.labels.max()
    dark = scan_of(Variation(soft_tissue=(1.0, -60.0)))
    muscle = (dark.labels == 0) & (scan_of(Variation()).image > 20) & (scan_of(Variation()).image < 90)
    assert np.median(dark.image[muscle]) < np.median(scan_of(Variation()).image[muscle]) - 30


def test_clinical_style_varies_and_has_thick_slices():
    styles = [clinical_style(np.random.default_rng(k), "thoracolumbar") for k in range(300)]
    assert styles[0] == clinical_style(np.random.default_rng(0), "thoracolumbar")
    negatives = [s.variation.negatives for s in styles]
    for field in fields(negatives[0]):
        share = np.mean([bool(getattr(n, field.name)) for n in negatives])
        assert 0.02 < share < 0.85, field.name
    thickest = np.array([max(s.spacing) for s in styles])
    along = np.array([int(np.argmax(s.spacing)) for s in styles])
    assert thickest.max() == 5.0
    for axis in (0, 2):
        assert (thickest[along == axis] == 5.0).any()
    assert all(max(s.spacing) / s.slab <= 2.6 for s in styles if s.slab > 1)
    assert max(s.noise for s in styles) > 90
    # Each negative is drawn with its own probability: pairs are as frequent as chance allows.
    limbus, table = (np.array([bool(getattr(n, name)) for n in negatives]) for name in ("limbus", "table"))
    assert (limbus & table).mean() < 1.8 * limbus.mean() * table.mean()


def test_clinical_style_is_wide_beside_its_negatives():
    for k in range(10):
        clinical, wide = clinical_style(np.random.default_rng(k), "lumbar"), wide_style(np.random.default_rng(k), "lumbar")
        assert clinical.variation.soft_tissue == wide.variation.soft_tissue
        assert (clinical.trabecular, clinical.cortical) == (wide.trabecular, wide.cortical)
        assert wide.variation.negatives is None
