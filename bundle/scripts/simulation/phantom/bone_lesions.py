# SPDX-License-Identifier: Apache-2.0
"""Lesions and degeneration inside the drawn vertebrae of a phantom; they change the density, no label and no height."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...core.vertebrae import LABELS
from ..style import ScanStyle
from .anatomy import VertebraSize
from .negatives import VertebralNegatives, generator_of
from .posture import mean_concavity
from .shapes import Array
from .soft_tissue import HU, blend
from .vertebra import Grid, Pose, facet_tip

Box = tuple[slice, slice, slice]
CORTEX_MM = 1.5  # of a body that lesions of cancellous bone leave in place


def _region(
    grid: Grid, pose: Pose, centre: tuple[float, float, float], radius: float
) -> tuple[Box, tuple[Array, Array, Array]] | None:
    """Box around a point in the frame of a vertebra, and the local coordinates of its voxels; None outside the grid."""
    world = pose.centre + pose.axes @ np.array(centre)
    box = grid.box(world - radius, world + radius)
    return None if box is None else (box, grid.local(box, pose))


def _body(size: VertebraSize, points: tuple[Array, Array, Array]) -> Array:
    """Approximate signed distance in mm to the cylinder of a body, without relief of its endplates."""
    x, y, z = points
    wall = (np.hypot(2 * x / size.width, 2 * y / size.depth) - 1) * min(size.width, size.depth) / 2
    return np.maximum(wall, np.abs(z) - size.height / 2)


def haemangioma(
    rng: np.random.Generator, image: Array, bone: NDArray[np.bool_], grid: Grid, pose: Pose, size: VertebraSize
) -> None:
    """Draw a haemangioma in a body in place: coarse upright trabeculae (dots in axial slices) in fat and vessels."""
    extent = rng.uniform([0.2, 0.2, 0.3], [0.5, 0.55, 0.6]) * [size.width, size.depth, size.height]
    centre = tuple((rng.uniform(-0.5, 0.5, 3) * (np.array([size.width, size.depth, size.height]) / 2 - 0.6 * extent)).tolist())
    period, phase, low = rng.uniform(3.0, 5.0, 2), rng.uniform(0, 6.3, 4), float(rng.uniform(-60, 60))
    contrast = float(rng.uniform(250, 500))
    found = _region(grid, pose, centre, float(extent.max()) + 2)
    if found is None:
        return
    box, points = found
    x, y, _ = points
    # Rows of trabeculae that are not quite straight.
    a = 2 * np.pi * x / period[0] + 0.9 * np.sin(y / 3.1 + phase[2]) + phase[0]
    b = 2 * np.pi * y / period[1] + 0.9 * np.sin(x / 2.7 + phase[3]) + phase[1]
    dots = np.clip((np.cos(a) + np.cos(b)) / 2 - 0.15, 0, 1)
    r = np.sqrt(sum(((p - c) / e) ** 2 for p, c, e in zip(points, centre, extent, strict=True)))
    distance = np.maximum((r - 1) * float(extent.min()), _body(size, points) + CORTEX_MM + 1)
    blend(image[box], low + contrast * dots, np.where(bone[box], distance, np.inf), max(grid.voxel, 1.5))


def bone_island(
    rng: np.random.Generator, image: Array, bone: NDArray[np.bool_], grid: Grid, pose: Pose, size: VertebraSize
) -> None:
    """Draw a dense island of 2 to 6 mm with a thorny border in place, in a body or, in one of four, in a pedicle."""
    half = np.array([size.width, size.depth, size.height]) / 2
    centre = tuple((rng.uniform(-0.75, 0.75, 3) * half).tolist())
    if rng.random() < 0.25:
        centre = (float(rng.choice([-0.33, 0.33])) * size.width, -size.depth / 2 - 0.3 * size.canal, 0.2 * size.height)
    radii, phase, value = rng.uniform(1.8, 6.0, 3), rng.uniform(0, 6.3, 2), float(rng.uniform(600, 1300))
    found = _region(grid, pose, centre, float(radii.max()) * 1.5)
    if found is None:
        return
    box, points = found
    u, v, w = ((p - c) / r for p, c, r in zip(points, centre, radii, strict=True))
    thorns = 0.18 * np.sin(5 * np.arctan2(v, u) + phase[0]) + 0.15 * np.sin(6 * np.arctan2(w, u) + phase[1])
    distance = (np.sqrt(u * u + v * v + w * w) - 1 - thorns) * float(radii.min())
    blend(image[box], value, np.where(bone[box], distance, np.inf), grid.voxel)


def endplate_sclerosis(
    rng: np.random.Generator,
    image: Array,
    bone: NDArray[np.bool_],
    grid: Grid,
    pose: Pose,
    size: VertebraSize,
    sign: float,
    concavity: float,
) -> None:
    """Add a dense band of 2 to 9 mm below an endplate in place, in a part of it (as Modic type 3 and in osteochondrosis).

    Args:
        rng: random number generator.
        image: (X, Y, Z) HU.
        bone: (X, Y, Z) mask of the vertebra.
        grid: grid of the scan.
        pose: pose of the vertebra.
        size: sizes of the vertebra.
        sign: 1 for the upper and -1 for the lower endplate.
        concavity: concavity of the endplate in mm.
    """
    a, b = rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.8)
    width, depth, density = rng.uniform(0.45, 1.3), rng.uniform(2.0, 9.0), rng.uniform(80, 380)
    found = _region(grid, pose, (0.0, 0.0, sign * size.height / 2), max(size.width, size.depth) / 2 + 3)
    if found is None:
        return
    box, (x, y, z) = found
    u, v = 2 * x / size.width, 2 * y / size.depth
    below = size.height / 2 - concavity * np.clip(1 - u * u - v * v, 0, 1) ** 1.5 - sign * z
    spot = np.exp(-((u - a) ** 2 + (v - b) ** 2) / width**2)
    band = np.clip((depth * np.sqrt(spot) - below) / 1.5 + 0.5, 0, 1) * np.clip((y + size.depth / 2 + 1) / 2, 0, 1)
    image[box] += np.where(bone[box] & (below > -6), density * spot * band, 0).astype(np.float32)


def limbus(rng: np.random.Generator, image: Array, bone: NDArray[np.bool_], grid: Grid, pose: Pose, size: VertebraSize) -> None:
    """Separate an anterior corner of a body in place, mostly the upper one, by an oblique cleft of disc with a dense margin."""
    sign = 1.0 if rng.random() < 0.8 else -1.0
    corner = (0.0, 0.98 * size.depth / 2, sign * 0.98 * size.height / 2)
    inward, gap, angle = float(rng.uniform(4.0, 8.0)), float(rng.uniform(0.8, 2.0)), float(np.radians(rng.uniform(30, 60)))
    lateral, offset = float(rng.uniform(0.35, 0.8)) * size.width / 2, float(rng.uniform(-0.3, 0.3)) * size.width / 2
    margin = float(rng.uniform(150, 450))
    found = _region(grid, pose, corner, max(2.2 * inward, size.width / 2))
    if found is None:
        return
    box, (x, y, z) = found
    # Distance inward from the plane through the corner.
    s = (
        (corner[1] - y) * np.cos(angle)
        + sign * (corner[2] - z) * np.sin(angle)
        - inward * (1 - 0.4 * ((x - offset) / lateral) ** 2)
    )
    along = np.abs((corner[1] - y) * np.sin(angle) - sign * (corner[2] - z) * np.cos(angle))
    reach = np.maximum(np.abs(x - offset) - lateral, along - 2 * inward)
    inside = bone[box]
    dense = np.exp(-(((s - gap - 1.5) / 1.5) ** 2)) * np.clip(1 - reach / 3, 0, 1)
    image[box] += np.where(inside, margin * dense, 0).astype(np.float32)
    cleft = np.maximum(np.abs(s) - gap, reach)
    blend(image[box], HU["disc"], np.where(inside, cleft, np.inf), max(grid.voxel, 1.0))


def facet_joint(
    rng: np.random.Generator,
    image: Array,
    bone: NDArray[np.bool_],
    grid: Grid,
    pose: Pose,
    tip: tuple[float, float, float],
    density: float,
    gas: bool,
) -> None:
    """Make the bone beside a facet joint dense, or draw gas into the joint, in place.

    Args:
        rng: random number generator.
        image: (X, Y, Z) HU.
        bone: (X, Y, Z) mask of all vertebrae.
        grid: grid of the scan.
        pose: pose of the lower vertebra.
        tip: tip of its superior facet in mm in its frame.
        density: added to the bone in HU; 0 for none.
        gas: whether the joint contains gas.
    """
    side = np.sign(tip[0])
    centre = (tip[0] - side * 1.5, tip[1] - 2.2, tip[2] - 4)
    found = _region(grid, pose, centre, 14.0)
    if found is None:
        return
    box, points = found
    x, y, z = (p - c for p, c in zip(points, centre, strict=True))
    if density:
        near = np.exp(-(x * x + y * y + (z / 1.5) ** 2) / float(rng.uniform(4.0, 7.0)) ** 2)
        image[box] += np.where(bone[box], density * near, 0).astype(np.float32)
    if gas:
        # A thin cleft along the joint, which is oblique in axial slices.
        turn = side * float(np.radians(rng.uniform(20, 50)))
        across, along = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
        half = rng.uniform([0.5, 2.5, 2.5], [1.1, 5.0, 5.5])
        r = np.sqrt((across / half[0]) ** 2 + (along / half[1]) ** 2 + (z / half[2]) ** 2)
        blend(image[box], float(rng.uniform(-900, -200)), (r - 1) * float(half[0]), grid.voxel)


def draw_lesions(
    negatives: VertebralNegatives,
    image: Array,
    labels: NDArray[np.uint8],
    grid: Grid,
    poses: Mapping[str, Pose],
    sizes: Mapping[str, VertebraSize],
    style: ScanStyle,
) -> None:
    """Draw all lesions of the vertebrae in place, after the vertebrae.

    Args:
        negatives: negatives by vertebra.
        image: (X, Y, Z) HU.
        labels: (X, Y, Z) VerSe labels, which are not changed.
        grid: grid of the scan.
        poses: poses by level.
        sizes: sizes by level.
        style: HU of cortical bone.
    """
    seed = negatives.seed
    for k, level in enumerate(negatives.islands):
        rng = generator_of(seed, f"island {k}")
        bone_island(rng, image, labels == LABELS[level], grid, poses[level], sizes[level])
    for name, levels, draw in (("haemangioma", negatives.haemangiomas, haemangioma), ("limbus", negatives.limbus, limbus)):
        for level in sorted(levels):
            draw(generator_of(seed, f"{name} {level}"), image, labels == LABELS[level], grid, poses[level], sizes[level])
    for level, sign in sorted(negatives.dense_endplates):
        rng, bone = generator_of(seed, f"endplate {level} {sign}"), labels == LABELS[level]
        endplate_sclerosis(rng, image, bone, grid, poses[level], sizes[level], sign, mean_concavity(level))
    for level, side in sorted(negatives.dense_facets | negatives.gas_facets):
        rng = generator_of(seed, f"facet {level} {side}")
        x, y, z = facet_tip(level, sizes[level])
        dense, gas = (level, side) in negatives.dense_facets, (level, side) in negatives.gas_facets
        density = float(rng.uniform(0.2, 0.6)) * style.cortical if dense else 0.0
        facet_joint(rng, image, labels > 0, grid, poses[level], (side * x, y, z), density, gas)
