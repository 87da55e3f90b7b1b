# SPDX-License-Identifier: Apache-2.0
"""Voxels and signed distance of a closed surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STEP_MM = 0.75  # of the distance maps
MARGIN_MM = 6.0  # around a surface
FACETED_EDGE_MM = 4.0  # mean length of edges above which a surface is faceted
SMOOTH_MM, SMOOTH_FACETED_MM = 0.6, 1.1  # standard deviation of the smoothing of a fine and of a faceted surface


@dataclass
class DistanceMap:
    """Signed distance to a surface, sampled every ``STEP_MM``.

    Attributes:
        distance: (X, Y, Z) mm, negative inside.
        origin: (3,) position of the first sample in mm.
        faceted: True for a surface of few triangles, whose body has flat endplates and walls.
    """

    distance: NDArray[np.float32]
    origin: NDArray[np.float64]
    faceted: bool = False

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine (4, 4) from samples to mm."""
        affine = np.diag([STEP_MM, STEP_MM, STEP_MM, 1.0])
        affine[:3, 3] = self.origin
        return affine

    def at(self, points: NDArray) -> NDArray[np.float32]:
        """Distance at points (3, ...) in mm, that of the border beyond it."""
        index = [(points[a] - self.origin[a]) / STEP_MM for a in range(3)]
        return ndimage.map_coordinates(self.distance, index, order=1, mode="nearest", output=np.float32)


def _inside_along(triangles: NDArray, shape: tuple[int, ...], axis: int) -> NDArray[np.bool_]:
    """Voxels (X, Y, Z) behind an odd number of triangles along an axis; triangles (N, 3, 3) in voxels."""
    order = [a for a in range(3) if a != axis] + [axis]
    corners = triangles[:, :, order]
    counts = np.zeros([shape[a] for a in order], np.int16)
    # An offset below any accuracy of the mesh, as a ray through a shared edge would count it twice or never.
    offset = np.array([1.37e-4, 2.11e-4])
    low = np.ceil(corners[:, :, :2].min(axis=1) - offset).astype(int)
    high = np.floor(corners[:, :, :2].max(axis=1) - offset).astype(int)
    size = np.maximum(high - low + 1, 0)
    number = size[:, 0] * size[:, 1]
    owner = np.repeat(np.arange(len(corners)), number)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    u, v = low[owner, 0] + rank // np.maximum(size[owner, 1], 1), low[owner, 1] + rank % np.maximum(size[owner, 1], 1)
    a, b, c = (corners[owner, i] for i in range(3))
    px, py = u + offset[0], v + offset[1]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    safe = np.where(area == 0, 1.0, area)
    s = ((px - a[:, 0]) * (c[:, 1] - a[:, 1]) - (py - a[:, 1]) * (c[:, 0] - a[:, 0])) / safe
    t = ((b[:, 0] - a[:, 0]) * (py - a[:, 1]) - (b[:, 1] - a[:, 1]) * (px - a[:, 0])) / safe
    hit = (area != 0) & (s >= 0) & (t >= 0) & (s + t <= 1)
    depth = np.ceil(a[:, 2] + s * (b[:, 2] - a[:, 2]) + t * (c[:, 2] - a[:, 2]))
    k = np.clip(depth[hit], 0, shape[axis] - 1).astype(int)
    np.add.at(counts, (u[hit], v[hit], k), 1)
    return np.moveaxis(np.cumsum(counts, axis=2) % 2 == 1, [0, 1, 2], order)


def voxelise(triangles: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Voxels inside a surface, by the majority of the parities along three axes, which bridges small holes.

    Args:
        triangles: (N, 3, 3) corners in mm.

    Returns:
        Mask (X, Y, Z) every ``STEP_MM`` with a margin of ``MARGIN_MM``, and the position (3,) of its first voxel in mm.
    """
    low, high = triangles.min(axis=(0, 1)) - MARGIN_MM, triangles.max(axis=(0, 1)) + MARGIN_MM
    shape = tuple(int(n) for n in np.ceil((high - low) / STEP_MM) + 1)
    voxels = (triangles - low) / STEP_MM
    votes = sum(_inside_along(voxels, shape, axis).astype(np.uint8) for axis in range(3))
    return np.asarray(votes) >= 2, low


def mean_edge(triangles: NDArray[np.float64]) -> float:
    """Mean length of the edges of triangles (N, 3, 3)."""
    return float(np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).mean())


def distance_map(
    mask: NDArray[np.bool_], origin: NDArray[np.float64], smooth_mm: float = SMOOTH_MM, faceted: bool = False
) -> DistanceMap:
    """Signed distance to the surface of a mask, smoothed without change of its volume.

    Args:
        mask: (X, Y, Z) voxels every ``STEP_MM``.
        origin: (3,) position of the first voxel in mm.
        smooth_mm: standard deviation of the smoothing in mm.
        faceted: True for a surface of few triangles.
    """
    inside = ndimage.distance_transform_edt(mask, sampling=STEP_MM)
    outside = ndimage.distance_transform_edt(~mask, sampling=STEP_MM)
    distance = np.where(mask, STEP_MM / 2 - inside, outside - STEP_MM / 2).astype(np.float32)
    distance = ndimage.gaussian_filter(distance, smooth_mm / STEP_MM, mode="nearest")
    # Smoothing takes from thin and convex bone; the level set of equal volume returns it.
    count = int(mask.sum())
    return DistanceMap(distance - np.partition(distance.ravel(), count)[count], origin, faceted)
