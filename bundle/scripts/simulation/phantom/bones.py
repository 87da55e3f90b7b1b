# SPDX-License-Identifier: Apache-2.0
"""Draws the bones and discs of a phantom into its image and labels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...core.vertebrae import LABELS
from ..style import Variation
from . import degeneration
from .anatomy import VertebraSize
from .endplates import Collapse, bumps, schmorl_node, together
from .posture import mean_dish
from .shapes import Array, capsule, vertebral_body
from .soft_tissue import HU, blend
from .vertebra import Grid, Pose, vertebra_distance

if TYPE_CHECKING:
    from ..style import ScanStyle


def _bone_hu(distance: Array, trabeculae: Array, style: ScanStyle, shell: Array | float) -> Array:
    """HU inside bone: compact near the surface, cancellous with its texture inside."""
    compact = np.clip((distance + shell) / 0.7 + 0.5, 0.0, 1.0)
    return trabeculae + (style.cortical - trabeculae) * compact


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
    age: Age | None = None,
    collapse: Collapse | None = None,
) -> None:
    """Draw one vertebra into ``image`` and ``labels`` in place; ``nearest`` holds the smallest distance drawn so far."""
    concavity = mean_dish(level)
    shape: dict = {
        "concavity": concavity * rng.uniform(0.6, 1.3),
        "waist": rng.uniform(0.05, 0.10),
        "lordosis": {"L5": 0.12, "L4": 0.06, "S1": 0.1}.get(level, -0.02) + rng.normal(0, 0.012),
        "skew": (rng.normal(0, 0.01), rng.normal(0, 0.01)),
    }
    spurs: list[tuple] = []
    if age is not None:
        spurs = age.change(shape, size, collapse)
    if collapse is not None:
        size = replace(size, width=size.width * collapse.bulge, depth=size.depth * collapse.bulge)
        shape["concavity"] = concavity
    bone = vertebra_distance(grid, pose, level, size, shape, spurs)
    if bone.region is None:
        return
    box, distance = bone.region, bone.distance
    points = bone.points
    y, z = points[1], points[2]
    # Posterior elements hold little cancellous bone; the basivertebral vein enters the body from behind.
    arch = np.clip((-size.depth / 2 - y) / 4, 0, 1)
    cancellous = style.trabecular * rng.normal(1, 0.05) + (28 + 0.12 * style.trabecular) * texture[box] + 120 * arch
    vein = np.hypot(z / 2.2, points[0] / 5) + np.clip(y - 0.05 * size.depth, 0, None) / 3
    cancellous -= np.clip(1.3 - vein, 0, 1) * (90 + 0.3 * style.trabecular)
    shell = (0.55 + 0.25 * arch) * (1.0 if style.variation is None else style.variation.shell)
    if age is not None:
        cancellous += age.streaks[box]
    if collapse is not None:
        cancellous += _collapse_hu(collapse, size, points)
    voxel = float(grid.spacing.mean())
    inside = distance < voxel
    value = np.where(inside, _bone_hu(distance, cancellous, style, shell), 0)
    mine = inside & (distance < nearest[box])
    blend_weight = np.where(mine, np.clip(0.5 - distance / voxel, 0, 1), 0)
    view = image[box]
    view += (value - view) * blend_weight
    labelled = mine & (distance < 0)
    if level in LABELS and level != "S1":
        labels[box][labelled] = LABELS[level]
    else:
        labels[box][labelled] = 0
    np.minimum(nearest[box], distance, out=nearest[box])


def _collapse_hu(collapse: Collapse, size: VertebraSize, points: tuple[Array, Array, Array]) -> Array:
    """Change in HU inside a collapsed body: all of it when impacted, else a band under the upper endplate."""
    x, y, z = points
    u, v = np.clip(2 * x / size.width, -1, 1), np.clip(2 * y / size.depth, -1, 1)
    body = np.clip((y + size.depth / 2 + 2) / 3, 0, 1)
    if collapse.density == "impaction":
        return collapse.hu * body
    below = size.height / 2 - collapse.side(True)(u, v) - z
    width = 2.5 if collapse.density == "sclerosis" else 1.0
    return collapse.hu * body * np.exp(-(((below - 4.5) / width) ** 2))


@dataclass
class Age:
    """What an old spine has besides: drawn from a generator of its own, so that healthy phantoms stay what they are."""

    rng: np.random.Generator
    variation: Variation
    streaks: Array

    def change(self, shape: dict, size: VertebraSize, collapse: Collapse | None) -> list[tuple]:
        """Change the shape of a body in place; returns its spurs."""
        rng, variation = self.rng, self.variation
        shape["lordosis"] += float(np.clip(rng.normal(-0.5 * variation.wedging, variation.wedging), -0.07, 0.08))
        shape["concavity"] *= float(rng.uniform(0.4, 1.3))
        reliefs = []
        for upper in (True, False):
            parts = [bumps(rng, variation.roughness)]
            parts += [schmorl_node(rng, size) for _ in range(min(rng.poisson(variation.schmorl), 2))]
            parts += [collapse.side(upper)] if collapse is not None else []
            reliefs.append(together(parts))
        shape["relief"] = tuple(reliefs)
        return degeneration.osteophytes(rng, size, variation.osteophytes)


def draw_discs(
    rng: np.random.Generator,
    grid: Grid,
    levels: tuple[str, ...],
    poses: dict[str, Pose],
    sizes: dict[str, VertebraSize],
    image: Array,
    texture: Array,
    age: Age | None = None,
    collapses: Mapping[str, Collapse] | None = None,
) -> None:
    """Draw the discs in place; bone drawn afterwards covers what reaches into it."""
    fractured = collapses or {}

    def sunk(level: str, upper: bool) -> float:
        return fractured[level].seat(upper, sizes[level].depth)[0] if level in fractured else 0.0

    for lower, upper in itertools.pairwise(levels):
        a, b = poses[lower], poses[upper]
        top = a.centre + (sizes[lower].height / 2 - sunk(lower, True)) * a.axes[:, 2]
        bottom = b.centre - (sizes[upper].height / 2 - sunk(upper, False)) * b.axes[:, 2]
        pose = Pose((top + bottom) / 2, (a.axes + b.axes) / 2)
        pose.axes /= np.linalg.norm(pose.axes, axis=0)
        width, depth = min(sizes[lower].width, sizes[upper].width), min(sizes[lower].depth, sizes[upper].depth)
        box = grid.box(pose.centre - width, pose.centre + width)
        if box is None:
            continue
        # A collapsed endplate leaves room that the disc fills.
        room = sum(0.8 * c.loss * sizes[v].height for v, c in fractured.items() if v in (lower, upper))
        height = float(np.linalg.norm(bottom - top)) + 5 + room
        disc = vertebral_body(grid.local(box, pose), width * 1.02, depth * 1.03, height, concavity=-0.5, waist=-0.03)
        ring = np.clip(1 + disc / 5, 0, 1) * 22
        blend(image[box], HU["disc"] + rng.normal(0, 8) + ring + 5 * texture[box], disc, float(grid.spacing.mean()))
        if age is not None and age.rng.random() < age.variation.vacuum:
            degeneration.vacuum(age.rng, image, grid, pose, sizes[lower], float(np.linalg.norm(bottom - top)))


def draw_ribs(
    rng: np.random.Generator, grid: Grid, poses: dict[str, Pose], sizes: dict[str, VertebraSize], image: Array
) -> None:
    """Ribs: a chain of capsules from the costovertebral joint outwards, backwards and down. They carry no label."""
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
                blend(image[box], value, bone, float(grid.spacing.mean()))
