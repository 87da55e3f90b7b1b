# SPDX-License-Identifier: Apache-2.0
"""Ribs from the costovertebral joints of a spine of templates, with the bone of the scan."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import reduce

import numpy as np

from ...core.vertebrae import LABELS
from ..phantom.anatomy import VertebraSize
from ..phantom.bones import bone_hu
from ..phantom.shapes import Array, capsule, smooth_minimum
from ..phantom.soft_tissue import blend
from ..phantom.vertebra import Grid, Pose
from ..style import ScanStyle, Variation

MEDULLARY_FRACTION = 0.9  # density of ribs, of that of vertebrae
CORTEX_MM = 0.75
FLATTEN = (0.9, 0.9, 1.4)  # ribs are higher than thick
REACH_MM = 8.0
FLOATING = (LABELS["T11"], LABELS["T12"])  # their heads are at the pedicle instead of the disc above


def draw_ribs(
    rng: np.random.Generator,
    grid: Grid,
    poses: Mapping[str, Pose],
    sizes: Mapping[str, VertebraSize],
    style: ScanStyle,
    image: Array,
) -> None:
    """Draw the ribs of T1 to T12 in place: head at the disc above, neck in front of the transverse process, tubercle, angle.

    Args:
        rng: random number generator.
        grid: grid of the scan.
        poses: poses by level.
        sizes: sizes by level.
        style: bone density.
        image: (X, Y, Z) HU.
    """
    cancellous = MEDULLARY_FRACTION * style.trabecular
    cortex = CORTEX_MM * (style.variation or Variation()).cortex
    for level, pose in poses.items():
        if not level.startswith("T"):
            continue
        size = sizes[level]
        floating = LABELS[level] in FLOATING
        back, up = -size.depth / 2, size.height / 2 * (0.3 if floating else 1.0)
        drop, length = rng.uniform(18, 30), 0.7 if floating else 1.0
        for side in (1.0, -1.0):
            head = np.array([size.width / 2 + 1.5, back + rng.uniform(2, 5), up])
            steps = np.array(
                [[0, 0, 0], [13, -14, -1], [28, -20, -8], [48, -14, -0.6 * drop], [66, 4, -drop], [78, 26, -1.5 * drop]]
            )
            knots = (head + length * steps + rng.normal(0, 0.7, steps.shape)) * [side, 1, 1]
            radii = (4.6, 3.2, 3.8, 3.6, 3.6, 3.6)
            parts = list(itertools.pairwise(zip(knots, radii, strict=True)))
            for k, ((a, _), (b, _)) in enumerate(parts):
                world = np.array([a, b]) @ pose.axes.T + pose.centre
                box = grid.box(world.min(axis=0) - REACH_MM, world.max(axis=0) + REACH_MM)
                if box is None:
                    continue
                points = grid.local(box, pose)
                # With the parts before and after it, so that the cortex of one does not cross the marrow of the next.
                near = [capsule(points, tuple(p), tuple(q), (r0, r1), FLATTEN) for (p, r0), (q, r1) in parts[max(k - 1, 0) : k + 2]]
                bone = reduce(lambda one, other: smooth_minimum(one, other, 1.5), near)
                blend(image[box], bone_hu(bone, np.full_like(bone, cancellous), style, cortex), bone, grid.voxel)
