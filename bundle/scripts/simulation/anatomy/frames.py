# SPDX-License-Identifier: Apache-2.0
"""Anatomical frame of a vertebra surface in any orientation along the axes of its file: centre of the body, right, front, up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...postprocessing.vertebra_frame import axis_samples, body_centre, body_footprint, endplate_surface
from .voxels import STEP_MM, DistanceMap

ROUNDS = 4  # of the alignment with the endplates
RIM_FRACTION = 0.8  # of the radius of the body within which an endplate is measured
SACRAL_HALF_HEIGHT_MM = 13.0  # of S1
SACRAL_TOP_MM = 30.0  # upper part of the sacrum, which contains the body of S1
SACRAL_SLOPE_DEG = 35.0  # of the endplate of S1, upright
MAX_SLOPE = 0.5  # of an endplate in an approximate frame
MIDLINE_MM = 6.0
PEDICLE_MM = 8.0  # behind the posterior wall


def _points(surface: DistanceMap) -> NDArray[np.float64]:
    """Positions (N, 3) in mm of the samples inside a surface."""
    return np.argwhere(surface.distance < 0) * STEP_MM + surface.origin


def _mirror_overlap(surface: DistanceMap, points: NDArray, axis: int, centre: float) -> float:
    """Fraction of points inside a surface that stay inside it when mirrored at ``centre`` along an axis."""
    mirrored = points.T.copy()
    mirrored[axis] = 2 * centre - mirrored[axis]
    return float(np.mean(surface.at(mirrored) < 0))


def person_axes(surfaces: Mapping[str, DistanceMap]) -> NDArray[np.float64]:
    """Axes right, front and up of a person's vertebrae along the axes of their files, from the shape of all but the sacrum.

    The front is where the bodies are, right and left mirror each other, and pedicles arise from the upper half of a body. A shape
    and its mirror image have the same axes, so a mirrored file remains mirrored.

    Args:
        surfaces: signed distance maps by level, all in one orientation.

    Returns:
        Unit vectors (3, 3), as columns.
    """
    vertebrae = [s for level, s in surfaces.items() if level != "S1"]
    centres = [body_centre((s.distance < 0).astype(np.uint8), s.affine, 1) for s in vertebrae]
    direction = np.sum([c - g for c, g, _ in centres], axis=0)
    front = int(np.argmax(np.abs(direction)))
    forward = np.zeros(3)
    forward[front] = np.sign(direction[front])
    points = [_points(s)[::7] for s in vertebrae]
    others = [a for a in range(3) if a != front]
    overlap = [
        sum(_mirror_overlap(s, p, axis, float(g[axis])) for s, p, (_, g, _) in zip(vertebrae, points, centres, strict=True))
        for axis in others
    ]
    lateral, vertical = others if overlap[0] >= overlap[1] else others[::-1]
    height = 0.0
    for inside, (centre, _, radius) in zip(points, centres, strict=True):
        relative = inside - centre
        behind = -relative @ forward
        pedicles = (behind > radius) & (behind < radius + PEDICLE_MM) & (np.abs(relative[:, lateral]) > MIDLINE_MM)
        height += float(relative[pedicles, vertical].mean()) if pedicles.any() else 0.0
    up = np.zeros(3)
    up[vertical] = 1.0 if height >= 0 else -1.0
    return np.stack([np.cross(forward, up), forward, up], axis=1)


def _frame_mask(surface: DistanceMap, centre: NDArray, axes: NDArray) -> NDArray[np.float32]:
    """Fraction of bone (X, Y, T) in the samples of a frame, from the distance."""
    grid = np.stack(np.meshgrid(*(axis_samples(i) for i in range(3)), indexing="ij"))
    world = np.tensordot(axes, grid, axes=1) + centre[:, None, None, None]
    return np.clip(0.5 - surface.at(world), 0, 1).astype(np.float32)


def _plane(surface: NDArray, use: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Height at the centre and slopes along x and y, (3,), of a plane through the columns ``use`` of an endplate (X, Y)."""
    x, y = np.meshgrid(axis_samples(0), axis_samples(1), indexing="ij")
    design = np.stack([np.ones(use.sum()), x[use], y[use]], axis=1)
    return np.linalg.lstsq(design, surface[use], rcond=None)[0]


def _turn(axes: NDArray, slope: NDArray) -> NDArray[np.float64]:
    """Axes with the up axis along the normal of a plane of slopes (x, y) in them; the front stays in its sagittal plane."""
    up = axes @ np.array([-slope[0], -slope[1], 1.0])
    up /= np.linalg.norm(up)
    front = axes[:, 1] - up * (up @ axes[:, 1])
    front /= np.linalg.norm(front)
    return np.stack([np.cross(front, up), front, up], axis=1)


def _sacral_start(surface: DistanceMap, axes: NDArray) -> NDArray[np.float64]:
    """Position (3,) in mm in the body of S1: the thickest part of the upper midline of a sacrum."""
    points = _points(surface)
    local = points @ axes
    middle = np.abs(local[:, 0] - np.median(local[:, 0])) < MIDLINE_MM
    upper = local[:, 2] > local[middle, 2].max() - SACRAL_TOP_MM
    chosen = points[middle & upper]
    depth = surface.at(chosen.T)
    return chosen[depth <= 0.9 * depth.min()].mean(axis=0)


def vertebra_frame(
    surface: DistanceMap, axes: NDArray, sacrum: bool = False
) -> tuple[NDArray, NDArray, tuple[float, float, float]]:
    """Frame of one vertebra, with its endplates level.

    Args:
        surface: signed distance map.
        axes: approximate unit vectors right, front and up, as columns.
        sacrum: True for S1 with the sacrum below it, which has only an upper endplate.

    Returns:
        Centre (3,) of the body in mm, axes (3, 3), and width, depth and height of the body in mm.

    Raises:
        FrameError: when there is no solid body.
    """
    centre, centroid, _ = body_centre((surface.distance < 0).astype(np.uint8), surface.affine, 1)
    if sacrum:
        slope = np.tan(np.radians(SACRAL_SLOPE_DEG))
        axes = _turn(axes, np.array([0.0, -slope]))
        centre = _sacral_start(surface, axes)
    else:
        front = centre - centroid
        front = front - axes[:, 2] * (axes[:, 2] @ front)
        front /= np.linalg.norm(front)
        axes = np.stack([np.cross(front, axes[:, 2]), front, axes[:, 2]], axis=1)
    x, y = np.meshgrid(axis_samples(0), axis_samples(1), indexing="ij")
    width = depth = height = 0.0
    for _ in range(ROUNDS):
        mask = _frame_mask(surface, centre, axes)
        footprint, position = body_footprint(mask, 1)
        if sacrum:
            footprint &= np.abs(x) < 20
        middle = footprint & (np.abs(x) < MIDLINE_MM)
        columns = position[middle]
        depth = float(np.ptp(y[middle])) + 1.0 if columns.size else 0.0
        x0, y0 = float(np.median(x[footprint])), float(np.mean([y[middle].max(), y[middle].min()]))
        widest = footprint & (np.abs(y - y0) < depth / 4)
        width = float(np.ptp(x[widest])) + 1.0
        core = ((2 * (x - x0) / width) ** 2 + (2 * (y - y0) / depth) ** 2 < RIM_FRACTION**2) & footprint
        top, bottom = _plane(endplate_surface(mask, 1), core), _plane(endplate_surface(mask, -1), core)
        slope = np.clip(top[1:] if sacrum else (top[1:] + bottom[1:]) / 2, -MAX_SLOPE, MAX_SLOPE)
        upper = top @ [1, x0, y0]
        z0 = float(upper - SACRAL_HALF_HEIGHT_MM) if sacrum else float(upper + bottom @ [1, x0, y0]) / 2
        height = 2 * SACRAL_HALF_HEIGHT_MM if sacrum else float(upper - bottom @ [1, x0, y0])
        centre = centre + axes @ np.array([x0, y0, z0])
        axes = _turn(axes, slope)
    return centre, axes, (width, depth, height)
