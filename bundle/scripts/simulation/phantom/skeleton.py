# SPDX-License-Identifier: Apache-2.0
"""Bones beside the spine of a phantom, none of them labelled: rib joints, chest wall, shoulder blades, iliac bones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ..negatives import Negatives
from ..style import ScanStyle
from .anatomy import VertebraSize
from .bones import bone_hu
from .negatives import SIDES, generator_of
from .shapes import Array, capsule, smooth_maximum
from .soft_tissue import HU, blend
from .vertebra import Grid, Pose

SCAPULA_LEVEL = "T5"
PLATE_REACH_MM = 65  # half the largest extent of a plate


def _draw_bone(image: Array, grid: Grid, pose: Pose, parts: Sequence[tuple], style: ScanStyle, cortex: float) -> None:
    """Draw capsules (start, end, radius, flatten) in the frame of ``pose`` as bone in place."""
    for start, end, radius, flatten in parts:
        ends = np.array([start, end]) @ pose.axes.T + pose.centre
        margin = max(radius) * max(flatten) + 2
        box = grid.box(ends.min(0) - margin, ends.max(0) + margin)
        if box is None:
            continue
        distance = capsule(grid.local(box, pose), start, end, radius, flatten)
        blend(image[box], bone_hu(distance, 0.6 * style.trabecular + 40, style, cortex), distance, grid.voxel)


def rib_joints(
    seed: int,
    image: Array,
    grid: Grid,
    poses: Mapping[str, Pose],
    sizes: Mapping[str, VertebraSize],
    style: ScanStyle,
    strength: float,
) -> None:
    """Draw rib heads at the discs and rib tubercles at the transverse processes in place, before the vertebrae.

    Args:
        seed: seed of the scan.
        image: (X, Y, Z) HU.
        grid: grid of the scan.
        poses: poses by level.
        sizes: sizes by level.
        style: bone density.
        strength: size of the heads and of the dense margin, 0 to 1.
    """
    for level in (v for v in poses if v.startswith("T")):
        rng, size = generator_of(seed, f"rib {level}"), sizes[level]
        low = level in ("T11", "T12")  # whose ribs meet the pedicle
        for side in SIDES:
            head = np.array(
                [size.width / 2 + rng.uniform(0.5, 3.0), -size.depth / 2 + rng.uniform(1, 6), size.height / 2 - (6 if low else 0)]
            )
            tubercle = np.array([head[0] + rng.uniform(12, 18), head[1] - rng.uniform(11, 16), head[2] - rng.uniform(1, 5)])
            radius = 3.6 + 2.8 * strength * float(rng.random())
            mirror = np.array([side, 1.0, 1.0])
            a, b = tuple((mirror * head).tolist()), tuple((mirror * tubercle).tolist())
            parts = [(a, a, (radius, radius), (0.9, 1.0, 1.15)), (a, b, (radius * 0.75, 3.0), (1.0, 1.0, 1.3))]
            parts.append((b, b, (radius * 0.9, radius * 0.9), (1.0, 1.0, 1.2)))
            dense = rng.random() < 0.5 * strength
            _draw_bone(image, grid, poses[level], parts, style, float(rng.uniform(1.5, 3.5) if dense else rng.uniform(0.5, 1.0)))


def _plate(
    rng: np.random.Generator,
    image: Array,
    grid: Grid,
    pose: Pose,
    half: tuple[float, float],
    thickness: tuple[float, float],
    curve: float,
    style: ScanStyle,
) -> None:
    """Draw a curved plate of bone between muscles in place, normal to the y axis of ``pose``.

    Args:
        rng: random number generator.
        image: (X, Y, Z) HU.
        grid: grid of the scan.
        pose: pose of the plate.
        half: half its extent along x and z in mm.
        thickness: half its thickness in mm at the low and at the high end of x.
        curve: depth of its curve in mm.
        style: bone density.
    """
    box = grid.box(pose.centre - PLATE_REACH_MM, pose.centre + PLATE_REACH_MM)
    if box is None:
        return
    x, y, z = grid.local(box, pose)
    u, w = x / half[0], z / half[1]
    rho = np.sqrt(u * u + w * w)
    outline = (rho - 1 - 0.12 * np.sin(3 * np.arctan2(w, u) + float(rng.uniform(0, 6)))) * min(half)
    thick = thickness[0] + (thickness[1] - thickness[0]) * np.clip((u + 1) / 2, 0, 1) + np.clip(rho - 0.7, 0, 0.3) * 6
    middle = np.abs(y - curve * (u * u + 0.3 * w * w - 0.4))
    muscle = middle - float(rng.uniform(10, 26)) * np.sqrt(np.clip(1.25 - rho * rho, 0, 1))
    muscle[(image[box] < -250) | (rho > 1.1)] = np.inf  # skin, lung and air stay
    blend(image[box], HU["muscle"] + float(rng.uniform(-10, 10)), muscle, 3 * grid.voxel)
    distance = smooth_maximum(middle - thick, outline, 4.0)
    value = bone_hu(distance, 0.6 * style.trabecular, style, float(rng.uniform(0.8, 1.6)))
    blend(image[box], value, distance, grid.voxel)


def chest_wall(
    seed: int, image: Array, grid: Grid, poses: Mapping[str, Pose], sizes: Mapping[str, VertebraSize], style: ScanStyle
) -> None:
    """Draw the lateral arches of the ribs and the shoulder blades in place.

    Args:
        seed: seed of the scan.
        image: (X, Y, Z) HU.
        grid: grid of the scan.
        poses: poses by level.
        sizes: sizes by level.
        style: bone density.
    """
    rng = generator_of(seed, "chest wall")
    for level in (v for v in poses if v.startswith("T") and v not in ("T11", "T12")):
        size = sizes[level]
        x, y, z = size.width / 2 + 60.5, -size.depth / 2 - 1, size.height / 2 - 25
        knots = [(x, y, z), (x + 17, y + 26, z - 14), (x + 20, y + 58, z - 26), (x + 6, y + 90, z - 36)]
        for side in SIDES:
            arch = [(side * a, b, c) for a, b, c in knots]
            parts = [(start, end, (3.6, 3.6), (0.9, 0.9, 1.5)) for start, end in itertools.pairwise(arch)]
            _draw_bone(image, grid, poses[level], parts, style, float(rng.uniform(0.8, 1.6)))
    if SCAPULA_LEVEL not in poses:
        return
    for side in SIDES:
        offset = np.array([side * rng.uniform(70, 92), -rng.uniform(30, 48), rng.uniform(-15, 15)])
        pose = Pose.tilted(
            poses[SCAPULA_LEVEL].centre + offset, float(rng.uniform(-10, 20)), 0.0, side * float(rng.uniform(20, 50))
        )
        _plate(rng, image, grid, pose, (float(rng.uniform(38, 48)), float(rng.uniform(55, 64))), (1.6, 2.4), 6.0, style)
        ridge = ((-side * 35.0, -2.0, 30.0), (side * 45.0, -14.0, 42.0), (3.0, 6.0), (1.0, 1.0, 1.4))
        _draw_bone(image, grid, pose, [ridge], style, 1.2)


def iliac_bones(seed: int, image: Array, grid: Grid, sacrum: Pose, style: ScanStyle) -> None:
    """Draw the iliac bones in place: thick behind, at the joint with the sacrum, thin towards the front, crest beside L5.

    Args:
        seed: seed of the scan.
        image: (X, Y, Z) HU.
        grid: grid of the scan.
        sacrum: pose of S1.
        style: bone density.
    """
    rng = generator_of(seed, "pelvis")
    height, turn, reach, out = rng.uniform(-8, 14), rng.uniform(48, 62), rng.uniform(50, 60), rng.uniform(82, 90)
    for side in SIDES:
        # The x axis of the plate runs outwards and to the front.
        pose = Pose.tilted(sacrum.centre + np.array([side * out, 2.0, height - 18]), 0.0, side * 16.0, side * float(turn))
        behind, front = float(rng.uniform(6.5, 9)), float(rng.uniform(2.0, 3.5))
        _plate(rng, image, grid, pose, (float(reach), 56.0), (behind, front) if side > 0 else (front, behind), 10.0, style)


def draw_skeleton(
    seed: int,
    image: Array,
    grid: Grid,
    poses: Mapping[str, Pose],
    sizes: Mapping[str, VertebraSize],
    style: ScanStyle,
    negatives: Negatives,
) -> None:
    """Draw the bones beside the spine in place, before the vertebrae, which own their voxels.

    Args:
        seed: seed of the scan.
        image: (X, Y, Z) HU.
        grid: grid of the scan.
        poses: poses by level.
        sizes: sizes by level.
        style: bone density.
        negatives: bones to draw.
    """
    if negatives.chest_wall:
        chest_wall(seed, image, grid, poses, sizes, style)
    if negatives.rib_joints:
        rib_joints(seed, image, grid, poses, sizes, style, negatives.rib_joints)
    if negatives.pelvis and "S1" in poses:
        iliac_bones(seed, image, grid, poses["S1"], style)
