# SPDX-License-Identifier: Apache-2.0
"""Appearance of phantoms: seeded, varied, and visible in the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
