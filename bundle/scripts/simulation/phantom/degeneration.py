# SPDX-License-Identifier: Apache-2.0
"""Signs of age and of surgery in a phantom that are no fracture: osteophytes, gas in discs, screws, and other bones in view."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from ..style import Variation
from .anatomy import VertebraSize
from .shapes import Array, capsule, vertebral_body
from .soft_tissue import blend, smooth_noise
from .vertebra import Grid, Pose

METAL = 3071.0  # HU, where most scanners end


def osteophytes(rng: np.random.Generator, size: VertebraSize, strength: float) -> list[tuple]:
    """Capsules (start, end, radius, flatten) of spurs at the rims of a body; long ones meet those of the next vertebra."""
    spurs: list[tuple] = []
    for sign in (1.0, -1.0):
        for angle in np.radians([90, 90 + rng.uniform(30, 70), 90 - rng.uniform(30, 70)]):
            if rng.random() > strength * 0.8:
                continue
            outward = np.array([np.cos(angle) * size.width, np.sin(angle) * size.depth]) / 2
            reach = strength * rng.uniform(0.2, 0.75) * size.disc
            out = 1 + strength * rng.uniform(0.02, 0.22)
            start = (*(0.90 * outward), sign * (size.height / 2 - rng.uniform(1, 3)))
            end = (*(out * outward), sign * (size.height / 2 + reach))
            thick = float(rng.uniform(1.3, 3.2))
            spurs.append((start, end, (thick, float(rng.uniform(0.8, 1.6))), (float(rng.uniform(1.5, 4.5)), 1.0, 1.0)))
    return spurs


def vacuum(rng: np.random.Generator, image: Array, grid: Grid, pose: Pose, size: VertebraSize, height: float) -> None:
    """Gas in a disc, drawn in place: a flat cleft somewhere between the endplates."""
    box = grid.box(pose.centre - size.width, pose.centre + size.width)
    if box is None:
        return
    x, y, z = grid.local(box, pose)
    centre = rng.uniform(-0.25, 0.25, 3) * [size.width, size.depth, height]
    extent = rng.uniform([0.15, 0.15, 0.12], [0.4, 0.42, 0.3]) * [size.width, size.depth, height]
    r = np.sqrt(sum(((p - c) / e) ** 2 for p, c, e in zip((x, y, z), centre, extent, strict=True)))
    blend(image[box], float(rng.uniform(-900, -150)), (r - 1) * float(extent.min()), float(grid.spacing.mean()))


def screws(
    rng: np.random.Generator,
    image: Array,
    grid: Grid,
    poses: dict[str, Pose],
    sizes: dict[str, VertebraSize],
    levels: list[str],
) -> None:
    """Pedicle screws in place, with the bright and dark rays that metal throws in axial slices."""
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
            near = np.clip(-np.abs(points[2] - 0.2 * size.height) / 5 + 1, 0, 1)
            angle = np.arctan2(points[1] - 0.5 * (start[1] + end[1]), points[0] - 0.5 * (start[0] + end[0]))
            rays = (
                rng.uniform(100, 350)
                * np.sin(rng.integers(3, 8) * angle + rng.uniform(0, 6))
                * np.exp(-np.clip(rod, 0, None) / 14)
            )
            image[box] += (rays * near).astype(np.float32)
            blend(image[box], METAL, rod, float(grid.spacing.mean()))


def clutter(rng: np.random.Generator, image: Array, grid: Grid, line: Array, count: int) -> None:
    """Other bones and bright organs in place, at least 45 mm from the middle of the spine: pelvis, ribs, kidneys."""
    size = np.array(grid.shape) * grid.spacing
    for _ in range(count):
        centre = grid.origin + rng.uniform(0, 1, 3) * size
        k = int(np.clip((centre[2] - grid.origin[2]) / grid.spacing[2], 0, grid.shape[2] - 1))
        away = float(np.hypot(centre[0] - line[k, 0], centre[1] - line[k, 1]))
        half = rng.uniform([8, 8, 8], [26, 26, 45])
        if away < 45 + half.max():
            continue
        pose = Pose.tilted(
            centre, float(rng.uniform(-60, 60)), float(rng.uniform(-40, 40)), float(rng.uniform(-90, 90))
        )
        box = grid.box(centre - half.max() * 1.6, centre + half.max() * 1.6)
        if box is None:
            continue
        width, depth, height = (2 * half).tolist()
        waist = float(rng.uniform(-0.2, 0.2))
        shape = vertebral_body(grid.local(box, pose), width, depth, height, concavity=-2.0, waist=waist)
        soft = rng.random() < 0.4
        inner, shell = float(rng.uniform(60, 260)), float(rng.uniform(350, 1100))
        value = inner if soft else np.where(shape < -rng.uniform(0.8, 3.0), inner, shell)
        blend(image[box], value, shape, float(grid.spacing.mean()))


def trabecular_streaks(rng: np.random.Generator, grid: Grid, strength: float) -> Array:
    """Upright texture in HU of the trabeculae that osteoporosis leaves."""
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, sigma=np.array([0.5, 0.5, 5.0]) / grid.spacing, mode="wrap")
    return noise * (strength / max(float(noise.std()), 1e-6))


def sharpen(image: Array, grid: Grid, strength: float) -> Array:
    """Edge enhancement of a bone kernel: overshoot beside every edge."""
    return image + strength * (image - gaussian_filter(image, sigma=1.0 / grid.spacing, mode="nearest"))


def change_tissue(rng: np.random.Generator, image: Array, grid: Grid, variation: Variation) -> Array:
    """Another contrast between the soft tissues; air and lung stay what they are."""
    factor, shift = variation.tissue
    patch = 0.5 * shift * np.clip(smooth_noise(rng, grid, 40.0), -2, 2)
    weight = np.clip((image + 400) / 150, 0, 1)
    return image + weight * ((factor - 1) * (image - 20) + shift + patch)
