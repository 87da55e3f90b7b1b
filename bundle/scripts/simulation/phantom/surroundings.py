# SPDX-License-Identifier: Apache-2.0
"""Vessels, gas, contrast medium, arms and table around the spine of a phantom, drawn before the bones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..negatives import Negatives
from .anatomy import VertebraSize
from .negatives import SIDES, generator_of
from .shapes import Array, capsule
from .soft_tissue import HU, blend, smooth_noise
from .vertebra import Grid, Pose

CLEARANCE_MM = 3.0  # between gas and the vertebral bodies


@dataclass(frozen=True)
class Surroundings:
    """The space around a spine.

    Attributes:
        seed: seed of the scan.
        grid: grid of the scan.
        line: (Z, 2) x and y in mm of the centres of the bodies in every axial slice.
        width: mean width of the bodies in mm.
        depth: mean depth of the bodies in mm.
        bodies: centres of the bodies in mm, (N, 3).
    """

    seed: int
    grid: Grid
    line: NDArray[np.float64]
    width: float
    depth: float
    bodies: NDArray[np.float64]

    @staticmethod
    def of(
        seed: int, grid: Grid, line: NDArray[np.float64], poses: Mapping[str, Pose], sizes: Mapping[str, VertebraSize]
    ) -> Surroundings:
        """Space around the vertebrae of ``poses`` and ``sizes``, both by level."""
        width, depth = (float(np.mean([getattr(sizes[v], n) for v in poses])) for n in ("width", "depth"))
        return Surroundings(seed, grid, line, width, depth, np.array([p.centre for p in poses.values()]))

    def relative(self, box: tuple[slice, slice, slice]) -> tuple[Array, Array, Array]:
        """Coordinates in mm of the voxels of a box from the centres of the bodies along R and A, and along S; broadcastable."""
        x, y, z = (c[tuple(s if c.shape[i] > 1 else slice(None) for i, s in enumerate(box))] for c in self.grid.coordinates())
        line = self.line[box[2]].astype(np.float32)
        return x - line[:, 0], y - line[:, 1], z

    def near(self, width: tuple[float, float], depth: tuple[float, float]) -> tuple[slice, slice, slice] | None:
        """Box along the whole spine between offsets in mm from the centres of the bodies."""
        low, high = self.line.min(0), self.line.max(0)
        top = self.grid.origin[2] + self.grid.spacing[2] * self.grid.shape[2]
        return self.grid.box(
            np.array([low[0] + width[0], low[1] + depth[0], self.grid.origin[2]]),
            np.array([high[0] + width[1], high[1] + depth[1], top]),
        )

    def blob(self, image: Array, centre: NDArray[np.float64], radii: NDArray[np.float64], value: float, free: bool = True) -> None:
        """Draw an ellipsoid in place; where ``free``, it leaves the bodies and what is behind them as they are."""
        box = self.grid.box(centre - radii.max() - 2, centre + radii.max() + 2)
        if box is None:
            return
        points = self.grid.local(box, Pose(centre))
        distance = (np.sqrt(sum((p / r) ** 2 for p, r in zip(points, radii, strict=True))) - 1) * float(radii.min())
        if free:
            dx, dy, _ = self.relative(box)
            half = self.width / 2 + CLEARANCE_MM, self.depth / 2 + CLEARANCE_MM
            body = (np.hypot(dx / half[0], dy / half[1]) - 1) * half[1]
            distance = np.maximum(distance, np.maximum(-body, -half[1] - dy))
        blend(image[box], value, distance, self.grid.voxel)


def aorta(space: Surroundings, image: Array, calcification: float, enhancement: float) -> None:
    """Draw a tortuous aorta that touches the spine, with thin calcified plaques in its wall, in place.

    Args:
        space: space around the spine.
        image: (X, Y, Z) HU.
        calcification: calcified fraction of the wall.
        enhancement: contrast medium in HU.
    """
    rng = generator_of(space.seed, "aorta")
    radius, gap, side = float(rng.uniform(8, 14)), float(rng.uniform(0.5, 6)), float(rng.uniform(-16, -2))
    period, phase, sway = rng.uniform(40, 90, 2), rng.uniform(0, 6.3, 2), float(rng.uniform(1, 7))
    box = space.near((-45, 30), (0, 60))
    if box is None:
        return
    dx, dy, z = space.relative(box)
    wave = np.sin(z / period[0] + phase[0]), np.sin(z / period[1] + phase[1])
    centre = side + sway * wave[0], space.depth / 2 + gap + radius + 2.5 * (1 + wave[1])
    tube = np.hypot(dx - centre[0], dy - centre[1]) - radius * (1 + 0.08 * wave[1])
    blend(image[box], HU["blood"] + enhancement, tube, space.grid.voxel)
    patches = smooth_noise(rng, Grid(np.zeros(3), space.grid.spacing, tube.shape), float(rng.uniform(5, 11)))
    limit = float(np.quantile(patches[::3, ::3, ::3], 1 - calcification))
    wall = np.abs(tube) - float(rng.uniform(0.5, 1.3))
    plaque = np.maximum(wall, (limit - patches) * 3)
    blend(image[box], float(rng.uniform(350, 1100)), plaque, max(space.grid.voxel * 0.8, 0.8))


def enhanced_vessels(space: Surroundings, image: Array, enhancement: float) -> None:
    """Draw the azygos vein, the segmental vessels around the bodies, and the kidneys with contrast medium in place."""
    rng = generator_of(space.seed, "vessels")
    value = HU["blood"] + enhancement * float(rng.uniform(0.5, 1.0))
    box = space.near((-5, 25), (0, 35))
    if box is not None:
        dx, dy, z = space.relative(box)
        sway = 2 * np.sin(z / 31 + float(rng.uniform(0, 6)))
        tube = np.hypot(dx - 7 - sway, dy - space.depth / 2 - 4.5) - float(rng.uniform(2, 4.5))
        blend(image[box], value, tube, space.grid.voxel)
    half = space.width / 2 + 2.0, space.depth / 2 + 2.0
    for body in space.bodies:
        for side in SIDES:
            if rng.random() < 0.3:
                continue
            angles = np.radians([80.0, 45.0, 5.0, -30.0])
            arc = [body + np.array([side * half[0] * np.cos(a), half[1] * np.sin(a), rng.normal(0, 0.7)]) for a in angles]
            for start, end in itertools.pairwise(arc):
                part = space.grid.box(np.minimum(start, end) - 4, np.maximum(start, end) + 4)
                if part is not None:
                    points = space.grid.local(part, Pose(np.zeros(3)))
                    vessel = capsule(points, tuple(start.tolist()), tuple(end.tolist()), (1.6, 1.2))
                    blend(image[part], value, vessel, space.grid.voxel)
    if enhancement > 150:
        for side in SIDES:
            centre = space.bodies[0] + np.array([side * rng.uniform(58, 70), rng.uniform(-12, 8), rng.uniform(20, 70)])
            space.blob(image, centre, np.array([24.0, 27.0, 48.0]), value)


def gas_and_bowel(space: Surroundings, image: Array, pockets: int, loops: int) -> None:
    """Draw pockets of gas and loops with oral contrast medium beside and in front of the bodies in place.

    Args:
        space: space around the spine.
        image: (X, Y, Z) HU.
        pockets: number of pockets of gas.
        loops: number of loops with contrast medium.
    """
    rng = generator_of(space.seed, "gas")
    extent = np.array(space.grid.shape) * space.grid.spacing
    for k in range(pockets + loops):
        at = int(rng.integers(space.grid.shape[2]))
        radii = rng.uniform([6, 6, 8], [26, 20, 40])
        angle = float(np.radians(rng.uniform(-15, 195)))
        away = np.array([np.cos(angle) * (space.width / 2 + radii[0] * 0.9), np.sin(angle) * (space.depth / 2 + radii[1] * 0.9)])
        height = space.grid.origin[2] + extent[2] * (at + 0.5) / space.grid.shape[2]
        centre = np.array([*(space.line[at] + away * rng.uniform(0.95, 1.6)), height])
        value = float(rng.uniform(-990, -820)) if k < pockets else float(rng.uniform(180, 700))
        space.blob(image, centre, radii, value)


def trunk_and_arms(space: Surroundings, image: Array, half_width: float, arms: bool) -> None:
    """Draw air beside a narrow trunk, and arms in it, in place.

    Args:
        space: space around the spine.
        image: (X, Y, Z) HU.
        half_width: half the width of the trunk in mm.
        arms: whether the arms lie beside it.
    """
    rng, grid = generator_of(space.seed, "arms"), space.grid
    x, y, z = grid.coordinates()
    dx, dy = x - space.line[:, 0].astype(np.float32).mean(), y - space.line[:, 1].astype(np.float32).mean()
    half_depth = float(rng.uniform(0.75, 1.0)) * half_width
    r = np.hypot(dx / half_width, np.clip(np.abs(dy - 20) - 25, 0, None) / half_depth)
    skin = np.where(np.abs(dx) > 0.5 * half_width, (1 - r) * half_width, np.float32(10))
    blend(image, -20.0, np.abs(skin) - 1.1, grid.voxel)
    blend(image, HU["air"], skin, grid.voxel)
    for side in SIDES if arms else ():
        radius, shaft = float(rng.uniform(30, 46)), float(rng.uniform(9, 13))
        lean = (z - z.mean()) * float(rng.uniform(-0.15, 0.15))
        cx = side * (half_width + radius + float(rng.uniform(-4, 6))) + lean
        cy = float(rng.uniform(-15, 25)) + lean * float(rng.uniform(-1, 1))
        arm = np.hypot(dx - cx, dy - cy)
        blend(image, HU["fat"], arm - radius, grid.voxel)
        blend(image, HU["muscle"], np.hypot((dx - cx) * 1.1, dy - cy) - radius * 0.82, 2 * grid.voxel)
        blend(image, float(rng.uniform(600, 1200)), arm - shaft, grid.voxel)
        blend(image, float(rng.uniform(-60, 60)), arm - shaft + float(rng.uniform(2, 4)), grid.voxel)


def curved_table(space: Surroundings, image: Array) -> None:
    """Draw the two layers of a curved table into the air behind the patient in place."""
    rng, grid = generator_of(space.seed, "table"), space.grid
    column = image[:: max(grid.shape[0] // 12, 1), :, :: max(grid.shape[2] // 12, 1)]
    tissue = np.argmax(column > -600, axis=1)  # first voxel from behind
    first = int(tissue[column.max(axis=1) > -600].min(initial=grid.shape[1] - 1))
    skin = grid.origin[1] + grid.spacing[1] * first
    x, y, _ = grid.coordinates()
    bend, gap = float(rng.uniform(0.0, 0.0012)), float(rng.uniform(1.0, 8.0))
    upper = y - (skin - gap + bend * (x - float(space.line[:, 0].mean())) ** 2)
    core, shell, thickness = float(rng.uniform(-950, -700)), float(rng.uniform(-300, 150)), float(rng.uniform(8, 40))
    air = np.clip((-image - 600) / 200, 0, 1)
    for layer, value, half in ((upper + thickness / 2, core, thickness / 2), (upper, shell, 1.2), (upper + thickness, shell, 1.2)):
        weight = np.clip(0.5 - (np.abs(layer) - half) / grid.voxel, 0, 1) * air
        image += (value - image) * weight


def draw_surroundings(space: Surroundings, image: Array, negatives: Negatives) -> None:
    """Draw everything around the spine in place, before its bones."""
    if negatives.gas_pockets or negatives.bowel_contrast:
        gas_and_bowel(space, image, negatives.gas_pockets, negatives.bowel_contrast)
    if negatives.enhancement:
        enhanced_vessels(space, image, negatives.enhancement)
    if negatives.aorta:
        aorta(space, image, negatives.aorta, negatives.enhancement)
    if negatives.trunk:
        trunk_and_arms(space, image, negatives.trunk, negatives.arms)
    if negatives.table:
        curved_table(space, image)
