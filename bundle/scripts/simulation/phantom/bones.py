# SPDX-License-Identifier: Apache-2.0
"""Vertebrae, discs and ribs, drawn into the image and the labels of a phantom."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...core.vertebrae import LABELS
from ..style import ScanStyle, Variation
from .anatomy import VertebraSize
from .degeneration import AgeingParameters, vacuum_cleft
from .endplates import Collapse
from .posture import mean_concavity
from .shapes import Array, capsule, vertebral_body
from .soft_tissue import HU, blend
from .vertebra import Grid, Pose, vertebra_distance


def trabecular_texture(style: ScanStyle, texture: Array) -> Array:
    """Variation of cancellous bone in HU, from a random field of unit standard deviation."""
    return (28 + 0.12 * style.trabecular) * texture


def bone_hu(distance: Array, cancellous: Array | float, style: ScanStyle, cortex_mm: Array | float) -> Array:
    """HU of bone: a cortex of ``cortex_mm`` at the surface, ``cancellous`` HU inside.

    Args:
        distance: signed distance to the surface in mm, negative inside.
        cancellous: HU of cancellous bone.
        style: HU of cortical bone.
        cortex_mm: thickness of the cortex in mm.
    """
    compact = np.clip((distance + cortex_mm) / 0.7 + 0.5, 0.0, 1.0)
    return cancellous + (style.cortical - cancellous) * compact


def draw_vertebra(
    rng: np.random.Generator,
    grid: Grid,
    pose: Pose,
    level: str,
    size: VertebraSize,
    style: ScanStyle,
    image: Array,
    labels: NDArray[np.uint8],
    nearest: Array,
    texture: Array,
    ageing: AgeingParameters | None = None,
    collapse: Collapse | None = None,
) -> None:
    """Draw one vertebra in place.

    Args:
        rng: random number generator.
        grid: grid of the scan.
        pose: pose of the vertebra.
        level: "C3" to "S1".
        size: sizes of the intact vertebra.
        style: bone density.
        image: (X, Y, Z) HU.
        labels: (X, Y, Z) VerSe labels.
        nearest: (X, Y, Z) smallest distance in mm to the vertebrae drawn so far.
        texture: (X, Y, Z) random field of unit standard deviation.
        ageing: degeneration, or None for a healthy vertebra.
        collapse: fracture, or None.
    """
    concavity = mean_concavity(level)
    shape: dict = {
        "concavity": concavity * rng.uniform(0.6, 1.3),
        "waist": rng.uniform(0.05, 0.10),
        "lordosis": {"L5": 0.12, "L4": 0.06, "S1": 0.1}.get(level, -0.02) + rng.normal(0, 0.012),
        "skew": (rng.normal(0, 0.01), rng.normal(0, 0.01)),
    }
    spurs = ageing.deform(shape, size, collapse, level) if ageing is not None else []
    if collapse is not None:
        size = replace(size, width=size.width * collapse.bulge, depth=size.depth * collapse.bulge)
        shape["concavity"] = concavity
    bone = vertebra_distance(grid, pose, level, size, shape, spurs)
    if bone.region is None:
        return
    box, distance = bone.region, bone.distance
    x, y, z = bone.points
    # Posterior elements contain little cancellous bone; the basivertebral vein enters the body from its posterior wall.
    arch = np.clip((-size.depth / 2 - y) / 4, 0, 1)
    cancellous = style.trabecular * rng.normal(1, 0.05) + trabecular_texture(style, texture[box]) + 120 * arch
    vein = np.hypot(z / 2.2, x / 5) + np.clip(y - 0.05 * size.depth, 0, None) / 3
    cancellous -= np.clip(1.3 - vein, 0, 1) * (90 + 0.3 * style.trabecular)
    if ageing is not None:
        cancellous += ageing.streaks[box]
    if collapse is not None:
        cancellous += _collapse_hu(collapse, size, bone.points)
    cortex = (0.55 + 0.25 * arch) * (style.variation or Variation()).cortex
    inside = distance < grid.voxel
    value = np.where(inside, bone_hu(distance, cancellous, style, cortex), 0)
    owned = inside & (distance < nearest[box])
    weight = np.where(owned, np.clip(0.5 - distance / grid.voxel, 0, 1), 0)
    view = image[box]
    view += (value - view) * weight
    labels[box][owned & (distance < 0)] = LABELS[level] if level in LABELS and level != "S1" else 0
    np.minimum(nearest[box], distance, out=nearest[box])


def _collapse_hu(collapse: Collapse, size: VertebraSize, points: tuple[Array, Array, Array]) -> Array:
    """Change of density in HU in a collapsed body: throughout when impacted, else a band below the upper endplate."""
    x, y, z = points
    u, v = np.clip(2 * x / size.width, -1, 1), np.clip(2 * y / size.depth, -1, 1)
    body = np.clip((y + size.depth / 2 + 2) / 3, 0, 1)
    if collapse.density == "impaction":
        return collapse.hu_change * body
    depth = size.height / 2 - collapse.endplate(True)(u, v) - z
    width = 2.5 if collapse.density == "sclerosis" else 1.0
    return collapse.hu_change * body * np.exp(-(((depth - 4.5) / width) ** 2))


def draw_discs(
    rng: np.random.Generator,
    grid: Grid,
    levels: Sequence[str],
    poses: Mapping[str, Pose],
    sizes: Mapping[str, VertebraSize],
    image: Array,
    texture: Array,
    ageing: AgeingParameters | None,
    collapses: Mapping[str, Collapse],
) -> None:
    """Draw the discs in place, before the bones that cover their margins.

    Args:
        rng: random number generator.
        grid: grid of the scan.
        levels: levels, lowest first.
        poses: poses by level.
        sizes: sizes by level.
        image: (X, Y, Z) HU.
        texture: (X, Y, Z) random field of unit standard deviation.
        ageing: degeneration, or None for healthy discs.
        collapses: fractures by level.
    """

    def settling(level: str, upper: bool) -> float:
        return collapses[level].neighbour_settling(upper, sizes[level].depth)[0] if level in collapses else 0.0

    for lower, upper in itertools.pairwise(levels):
        a, b = poses[lower], poses[upper]
        top = a.centre + (sizes[lower].height / 2 - settling(lower, True)) * a.axes[:, 2]
        bottom = b.centre - (sizes[upper].height / 2 - settling(upper, False)) * b.axes[:, 2]
        pose = Pose((top + bottom) / 2, (a.axes + b.axes) / 2)
        pose.axes /= np.linalg.norm(pose.axes, axis=0)
        width, depth = min(sizes[lower].width, sizes[upper].width), min(sizes[lower].depth, sizes[upper].depth)
        box = grid.box(pose.centre - width, pose.centre + width)
        if box is None:
            continue
        gap = float(np.linalg.norm(bottom - top))
        # The disc fills the space above and below collapsed endplates.
        lost = sum(0.8 * c.loss * sizes[v].height for v, c in collapses.items() if v in (lower, upper))
        height = gap + 5 + lost
        disc = vertebral_body(grid.local(box, pose), width * 1.02, depth * 1.03, height, concavity=-0.5, waist=-0.03)
        annulus = np.clip(1 + disc / 5, 0, 1) * 22
        blend(image[box], HU["disc"] + rng.normal(0, 8) + annulus + 5 * texture[box], disc, grid.voxel)
        if ageing is not None and ageing.rng.random() < ageing.variation.vacuum:
            vacuum_cleft(ageing.rng, image, grid, pose, sizes[lower], gap)


def draw_ribs(
    rng: np.random.Generator, grid: Grid, poses: Mapping[str, Pose], sizes: Mapping[str, VertebraSize], image: Array
) -> None:
    """Draw ribs in place, chains of capsules from the costovertebral joints; they have no label."""
    for level, pose in poses.items():
        if not level.startswith("T"):
            continue
        size = sizes[level]
        x0, y0, z0 = size.width / 2 + 2.5, -size.depth / 2 + 5, size.height / 2 - 1
        knots = [(x0, y0, z0), (x0 + 14, y0 - 13, z0 - 1), (x0 + 32, y0 - 20, z0 - 8), (x0 + 58, y0 - 6, z0 - 24)]
        for side in (1.0, -1.0):
            rib = [(x * side, y, z) for x, y, z in knots]
            for start, end in itertools.pairwise(rib):
                ends = np.array([start, end]) @ pose.axes.T + pose.centre
                box = grid.box(ends.min(0) - 9, ends.max(0) + 9)
                if box is None:
                    continue
                bone = capsule(grid.local(box, pose), start, end, (3.4, 3.4), (0.9, 0.9, 1.5))
                value = np.where(bone < -1.6, 190.0, 720.0 + 40 * rng.standard_normal())
                blend(image[box], value, bone, grid.voxel)
