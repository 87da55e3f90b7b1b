# SPDX-License-Identifier: Apache-2.0
"""Phantoms: seeded, with realistic HU, whole vertebrae and a free spinal canal."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.core.vertebrae import LABELS, spine_order
from scripts.simulation.phantom.anatomy import REGIONS
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle

COARSE = ScanStyle(spacing=(3.0, 2.0, 2.0))


@pytest.mark.parametrize("region", list(REGIONS))
def test_regions_contain_their_levels_at_realistic_hu(region):
    scan = make_phantom(1, region, COARSE)
    expected = [LABELS[v] for v in REGIONS[region] if v != "S1"]
    shown = spine_order(scan.labels)
    assert set(shown) <= set(expected)
    assert len(shown) >= len(expected) - 2
    bone, air = scan.image[scan.labels > 0], scan.image[scan.image < -900]
    assert 150 < np.median(bone) < 600
    assert bone.max() > 500
    assert air.size > 0
    # Head is up: labels rise towards the feet.
    heights = [np.argwhere(scan.labels == v)[:, 2].mean() for v in shown]
    assert heights == sorted(heights, reverse=True)


def test_phantom_is_determined_by_its_seed():
    first, again, other = (make_phantom(s, "lumbar", COARSE) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_spinal_canal_is_free():
    scan = make_phantom(2, "lumbar", ScanStyle(spacing=(1.5, 1.5, 1.5)))
    voxels = np.argwhere(scan.labels == LABELS["L3"])
    middle = voxels[np.abs(voxels[:, 0] - voxels[:, 0].mean()) < 2]
    centre_height = middle[np.abs(middle[:, 2] - middle[:, 2].mean()) < 3]
    gaps = np.diff(np.unique(centre_height[:, 1]))
    assert gaps.max() * 1.5 > 8, "no spinal canal between body and spinous process"


def test_unknown_region_is_refused():
    with pytest.raises(ValueError, match="lumbar"):
        make_phantom(0, "pelvis")
