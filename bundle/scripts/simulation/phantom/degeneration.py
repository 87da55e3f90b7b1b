# SPDX-License-Identifier: Apache-2.0
"""Degeneration, hardware and distractors of a phantom, none of them a fracture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..style import Variation
from .anatomy import VertebraSize
from .endplates import Collapse, schmorl_node, sum_reliefs, uneven_surface
from .negatives import VertebralNegatives
from .shapes import Array, capsule, vertebral_body
from .soft_tissue import blend, smooth_noise
from .vertebra import Grid, Pose

METAL_HU = 3071.0  # upper end of 12-bit CT
DISTRACTOR_DISTANCE_MM = 45  # from the spine


@dataclass
class AgeingParameters:
    """Degeneration of the vertebrae of one spine.

    Attributes:
        rng: random number generator, separate from that of the healthy spine, which therefore does not depend on the variation.
        variation: degeneration of the scan.
        streaks: (X, Y, Z) vertical trabecular pattern in HU.
        negatives: further negatives by vertebra, from generators of their own; None without.
    """

    rng: np.random.Generator
    variation: Variation
    streaks: Array
    negatives: VertebralNegatives | None = None

    def deform(self, shape: dict, size: VertebraSize, collapse: Collapse | None, level: str) -> list[tuple]:
        """Add wedging and the relief of the endplates to the arguments of ``vertebral_body`` in place.

        Returns:
            Capsules of osteophytes.
        """
        rng, variation = self.rng, self.variation
        shape["lordosis"] += float(np.clip(rng.normal(-0.5 * variation.wedging, variation.wedging), -0.07, 0.08))
        shape["concavity"] *= float(rng.uniform(0.4, 1.3))
        reliefs = []
        for upper in (True, False):
            parts = [uneven_surface(rng, variation.roughness)]
            parts += [schmorl_node(rng, size) for _ in range(min(rng.poisson(variation.schmorl), 2))]
            parts += [collapse.endplate(upper)] if collapse is not None else []
            reliefs.append(sum_reliefs(parts))
        shape["relief"] = tuple(reliefs)
        spurs = osteophytes(rng, size, variation.osteophytes)
        return spurs if self.negatives is None else spurs + self.negatives.deform(level, shape, size)


def osteophytes(rng: np.random.Generator, size: VertebraSize, strength: float) -> list[tuple]:
    """Capsules (start, end, radius, flatten) of spurs at the rims of a body; long ones bridge the disc.

    Args:
        rng: random number generator.
        size: sizes of the vertebra.
        strength: 0 for none, 1 for spurs that bridge most discs.
    """
    spurs: list[tuple] = []
    for sign in (1.0, -1.0):
        for angle in np.radians([90, 90 + rng.uniform(30, 70), 90 - rng.uniform(30, 70)]):
            if rng.random() > strength * 0.8:
                continue
            rim = np.array([np.cos(angle) * size.width, np.sin(angle) * size.depth]) / 2
            length = strength * rng.uniform(0.2, 0.75) * size.disc
            protrusion = 1 + strength * rng.uniform(0.02, 0.22)
            start = (*(0.90 * rim), sign * (size.height / 2 - rng.uniform(1, 3)))
            end = (*(protrusion * rim), sign * (size.height / 2 + length))
            radius = float(rng.uniform(1.3, 3.2))
            spurs.append((start, end, (radius, float(rng.uniform(0.8, 1.6))), (float(rng.uniform(1.5, 4.5)), 1.0, 1.0)))
    return spurs


def vacuum_cleft(rng: np.random.Generator, image: Array, grid: Grid, pose: Pose, size: VertebraSize, height: float) -> None:
    """Draw a flat gas cleft in a disc of ``height`` mm in place (vacuum phenomenon)."""
    box = grid.box(pose.centre - size.width, pose.centre + size.width)
    if box is None:
        return
    centre = rng.uniform(-0.25, 0.25, 3) * [size.width, size.depth, height]
    extent = rng.uniform([0.15, 0.15, 0.12], [0.4, 0.42, 0.3]) * [size.width, size.depth, height]
    r = np.sqrt(sum(((p - c) / e) ** 2 for p, c, e in zip(grid.local(box, pose), centre, extent, strict=True)))
    blend(image[box], float(rng.uniform(-900, -150)), (r - 1) * float(extent.min()), grid.voxel)


def pedicle_screws(
    rng: np.random.Generator, image: Array, grid: Grid, poses: dict[str, Pose], sizes: dict[str, VertebraSize], levels: list[str]
) -> None:
    """Draw pedicle screws with the streak artefacts of metal in place, two in each of ``levels``."""
    for level in levels:
        size, pose = sizes[level], poses[level]
        back, side = -size.depth / 2, size.width * 0.33
        for sign in (1.0, -1.0):
            start = (sign * side * 1.15, back - size.canal - 6, 0.3 * size.height)
            end = (sign * side * 0.6, size.depth * rng.uniform(0.0, 0.35), 0.1 * size.height)
            ends = np.array([start, end]) @ pose.axes.T + pose.centre
            box = grid.box(ends.min(0) - 40, ends.max(0) + 40)
            if box is None:
                continue
            points = grid.local(box, pose)
            rod = capsule(points, start, end, (3.0, 2.4))
            near_plane = np.clip(-np.abs(points[2] - 0.2 * size.height) / 5 + 1, 0, 1)
            angle = np.arctan2(points[1] - 0.5 * (start[1] + end[1]), points[0] - 0.5 * (start[0] + end[0]))
            streaks = (
                rng.uniform(100, 350) * np.sin(rng.integers(3, 8) * angle + rng.uniform(0, 6)) * np.exp(-np.clip(rod, 0, None) / 14)
            )
            image[box] += (streaks * near_plane).astype(np.float32)
            blend(image[box], METAL_HU, rod, grid.voxel)


def distractor_structures(rng: np.random.Generator, image: Array, grid: Grid, line: Array, count: int) -> None:
    """Draw up to ``count`` other bones and bright organs (pelvis, ribs, kidneys) in place.

    Args:
        rng: random number generator.
        image: (X, Y, Z) HU.
        grid: grid of the image.
        line: (Z, 2) x and y of the spine in mm in every axial slice; structures too close to it are left out.
        count: number of attempts.
    """
    extent = np.array(grid.shape) * grid.spacing
    for _ in range(count):
        centre = grid.origin + rng.uniform(0, 1, 3) * extent
        k = int(np.clip((centre[2] - grid.origin[2]) / grid.spacing[2], 0, grid.shape[2] - 1))
        distance = float(np.hypot(centre[0] - line[k, 0], centre[1] - line[k, 1]))
        half = rng.uniform([8, 8, 8], [26, 26, 45])
        if distance < DISTRACTOR_DISTANCE_MM + half.max():
            continue
        pose = Pose.tilted(centre, float(rng.uniform(-60, 60)), float(rng.uniform(-40, 40)), float(rng.uniform(-90, 90)))
        box = grid.box(centre - half.max() * 1.6, centre + half.max() * 1.6)
        if box is None:
            continue
        width, depth, height = (2 * half).tolist()
        waist = float(rng.uniform(-0.2, 0.2))
        shape = vertebral_body(grid.local(box, pose), width, depth, height, concavity=-2.0, waist=waist)
        organ = rng.random() < 0.4
        inner, cortex = float(rng.uniform(60, 260)), float(rng.uniform(350, 1100))
        value = inner if organ else np.where(shape < -rng.uniform(0.8, 3.0), inner, cortex)
        blend(image[box], value, shape, grid.voxel)


def change_tissue_contrast(rng: np.random.Generator, image: Array, grid: Grid, variation: Variation) -> Array:
    """Image with another contrast between the soft tissues; air and lung are not changed."""
    factor, offset = variation.soft_tissue
    inhomogeneity = 0.5 * offset * np.clip(smooth_noise(rng, grid, 40.0), -2, 2)
    weight = np.clip((image + 400) / 150, 0, 1)
    return image + weight * ((factor - 1) * (image - 20) + offset + inhomogeneity)
