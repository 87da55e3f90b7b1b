# SPDX-License-Identifier: Apache-2.0
"""Bodies of a mask of instances: inside their vertebra, in front, the same on finer voxels; reasons where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scripts.core.vertebrae import spine_order
from scripts.postprocessing.body_masks import vertebral_bodies
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle

CUT = 19  # T12, of which the scan shows the lower end


@pytest.fixture(scope="module")
def spine() -> tuple[np.ndarray, np.ndarray]:
    """Labels (X, Y, Z) and affine of a lumbar phantom."""
    scan = make_phantom(4, "lumbar", replace(ScanStyle.random(np.random.default_rng(4), "lumbar"), spacing=(2.0, 1.6, 1.6)))
    return scan.labels.astype(np.uint8), scan.affine


@pytest.fixture(scope="module")
def bodies(spine) -> np.ndarray:
    return vertebral_bodies(*spine, spine_order(spine[0]))[0]


def test_bodies_are_parts_of_whole_vertebrae(spine, bodies):
    labels, affine = spine
    _, unknown = vertebral_bodies(labels, affine, spine_order(labels))
    assert set(unknown) == {CUT}
    assert "too little to measure" in unknown[CUT]
    assert not bodies[~np.isin(labels, spine_order(labels)) | (labels == CUT)].any()
    volume = np.bincount(labels[bodies], minlength=25)[20:25] * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert (volume > 15).all()  # ml, of lumbar bodies
    assert (volume < 80).all()


def test_finer_voxels_have_the_same_bodies(spine, bodies):
    labels, affine = spine
    fine = affine.copy()
    fine[:3, :3] /= 4
    fine[:3, 3] -= 1.5 * fine[:3, :3].sum(axis=1)  # the centre of the first voxel
    box = tuple(slice(int(v.min()), int(v.max()) + 1) for v in np.nonzero(np.isin(labels, (21, 22, 23))))
    fine[:3, 3] += 4 * fine[:3, :3] @ [s.start for s in box]
    part = np.where(np.isin(labels[box], (21, 22, 23)), labels[box], 0).repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    ours = vertebral_bodies(part, fine, [22])[0]
    theirs = (bodies & (labels == 22))[box].repeat(4, 0).repeat(4, 1).repeat(4, 2)
    assert 2 * (ours & theirs).sum() > 0.93 * (ours.sum() + theirs.sum())


def test_vertebrae_that_are_absent_have_a_reason(spine):
    labels, affine = spine
    mask, unknown = vertebral_bodies(labels, affine, [3, 22, 200])
    assert unknown == {v: f"vertebra {v} is not in the mask" for v in (3, 200)}
    assert (labels[mask] == 22).all()
    assert mask.any()


def test_nothing_is_marked_without_vertebrae(spine):
    labels, affine = spine
    for mask in (labels, np.zeros_like(labels)):
        assert vertebral_bodies(mask, affine, [])[0].sum() == 0
    speck = np.zeros_like(labels)
    speck[5, 5, 5] = 22
    mask, unknown = vertebral_bodies(speck, affine, [22])
    assert not mask.any()
    assert list(unknown) == [22]
