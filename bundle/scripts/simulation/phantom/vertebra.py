# SPDX-License-Identifier: Apache-2.0
"""One vertebra of the phantom: signed distance to its body and posterior elements on the grid of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.vertebrae import region_of
from .anatomy import SIZES, VertebraSize
from .shapes import Array, capsule, smooth_maximum, smooth_minimum, vertebral_body

OUTSIDE = np.float32(50.0)


@dataclass
class Pose:
    """Position and orientation of a vertebra.

    Attributes:
        centre: (3,) centre of the body in mm (R, A, S).
        axes: (3, 3) unit vectors right, anterior and up of the vertebra, as columns.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))

    @staticmethod
    def tilted(centre: NDArray[np.float64], sagittal: float, coronal: float = 0.0, axial: float = 0.0) -> Pose:
        """Pose from angles in degrees: forward inclination, inclination to the right, axial rotation."""
        s, c, a = np.radians([sagittal, coronal, axial])
        about_x = np.array([[1, 0, 0], [0, np.cos(s), np.sin(s)], [0, -np.sin(s), np.cos(s)]])
        about_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        return Pose(np.asarray(centre, dtype=float), about_x @ about_y @ about_z)


@dataclass
class Grid:
    """Voxel grid along the world axes.

    Attributes:
        origin: (3,) centre of the first voxel in mm (R, A, S).
        spacing: (3,) voxel size in mm.
        shape: number of voxels (X, Y, Z).
    """

    origin: NDArray[np.float64]
    spacing: NDArray[np.float64]
    shape: tuple[int, int, int]

    @property
    def voxel(self) -> float:
        """Mean voxel size in mm."""
        return float(self.spacing.mean())

    def coordinates(self) -> tuple[Array, Array, Array]:
        """World coordinates of the voxels in mm, broadcastable: (X, 1, 1), (1, Y, 1), (1, 1, Z)."""
        x, y, z = (self.origin[i] + self.spacing[i] * np.arange(self.shape[i]) for i in range(3))
        grids = np.meshgrid(x, y, z, indexing="ij", sparse=True)
        return tuple(g.astype(np.float32) for g in grids)  # type: ignore[return-value]

    def line(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate a line through points (N, 3) in mm, lowest first, to x and y in every axial slice, (Z, 2)."""
        z = self.origin[2] + self.spacing[2] * np.arange(self.shape[2])
        return np.stack([np.interp(z, points[:, 2], points[:, i]) for i in range(2)], axis=1)

    def box(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[slice, slice, slice] | None:
        """Slices of the voxels between the world corners ``low`` and ``high`` in mm, or None outside the grid."""
        start = np.maximum(np.floor((low - self.origin) / self.spacing), 0).astype(int)
        stop = np.minimum(np.ceil((high - self.origin) / self.spacing) + 1, self.shape).astype(int)
        if np.any(stop <= start):
            return None
        return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))  # type: ignore[return-value]

    def local(self, box: tuple[slice, slice, slice], pose: Pose) -> tuple[Array, Array, Array]:
        """Coordinates in mm of the voxels of ``box`` along the axes of ``pose``, each of the shape of the box."""
        world = [
            (self.origin[i] + self.spacing[i] * np.arange(box[i].start, box[i].stop) - pose.centre[i]).astype(np.float32)
            for i in range(3)
        ]
        x, y, z = world[0][:, None, None], world[1][None, :, None], world[2][None, None, :]
        axes = pose.axes.astype(np.float32)
        return tuple(x * axes[0, k] + y * axes[1, k] + z * axes[2, k] for k in range(3))  # type: ignore[return-value]


class DistanceField:
    """Signed distance in mm to a union of primitives, each evaluated only in its bounding box."""

    def __init__(self, grid: Grid, pose: Pose, radius: float) -> None:
        self.grid, self.pose = grid, pose
        self.region = grid.box(pose.centre - radius, pose.centre + radius)
        if self.region is None:
            self.distance = np.zeros((0, 0, 0), np.float32)
            return
        self.distance = np.full([s.stop - s.start for s in self.region], OUTSIDE, np.float32)
        self.points = grid.local(self.region, pose)

    def _sub_box(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[slice, slice, slice] | None:
        corners = np.array([[(low, high)[b][i] for i, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
        world = corners @ self.pose.axes.T + self.pose.centre
        box = self.grid.box(world.min(0), world.max(0))
        if box is None or self.region is None:
            return None
        cut = tuple(
            slice(max(b.start, r.start) - r.start, min(b.stop, r.stop) - r.start) for b, r in zip(box, self.region, strict=True)
        )
        return cut if all(c.stop > c.start for c in cut) else None  # type: ignore[return-value]

    def add_body(self, size: VertebraSize, seam: float, **shape: Any) -> None:
        """Add the vertebral body."""
        half = np.array([size.width / 2 + 4, size.depth / 2 + 4, size.height / 2 + 7])
        cut = self._sub_box(-half, half)
        if cut is not None:
            x, y, z = (p[cut] for p in self.points)
            body = vertebral_body((x, y, z), size.width, size.depth, size.height, **shape)
            self.distance[cut] = smooth_minimum(self.distance[cut], body, seam)

    def add_capsule(
        self,
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        radius: tuple[float, float],
        flatten: tuple[float, float, float] = (1.0, 1.0, 1.0),
        seam: float = 2.0,
    ) -> None:
        """Add a capsule; see ``shapes.capsule``."""
        margin = max(radius) * np.array(flatten) + 4
        ends = np.array([start, end])
        cut = self._sub_box(ends.min(0) - margin, ends.max(0) + margin)
        if cut is not None:
            points = tuple(p[cut] for p in self.points)
            primitive = capsule(points, start, end, radius, flatten)  # type: ignore[arg-type]
            self.distance[cut] = smooth_minimum(self.distance[cut], primitive, seam)

    def carve_canal(self, size: VertebraSize) -> None:
        """Remove bone from the spinal canal, an elliptic cylinder behind the body."""
        if self.distance.size:
            x, y, _ = self.points
            centre = -(size.depth / 2 + size.canal * 0.5 - 0.6)
            canal = np.hypot(x / 1.3, y - centre) - size.canal / 2
            self.distance = smooth_maximum(self.distance, (-canal).astype(np.float32), 1.0)


def _posterior_elements(level: str, size: VertebraSize) -> list[tuple]:
    """Capsules (start, end, radius, flatten) of the posterior elements on the right and, at x = 0, in the midline."""
    region = region_of(level)
    scale = {"cervical": 0.62, "thoracic": 0.82, "lumbar": 1.0}[region]
    back, half = -size.depth / 2, size.height / 2
    arch = back - size.canal * 0.86
    pedicle_x = size.width * {"cervical": 0.46, "thoracic": 0.33, "lumbar": 0.33}[region]
    pedicle_z = half * {"cervical": 0.0, "thoracic": 0.42, "lumbar": 0.35}[region]
    slope = np.radians(size.slope)
    tip = (0.0, arch - 3 - size.process * float(np.cos(slope)), -3 - size.process * float(np.sin(slope)))
    spinous = [((0.0, arch - 2, -half * 0.5), tip, (3.0 * scale, 2.6 * scale), (0.8, 1.0, 1.2 if region == "cervical" else 1.7))]
    if region == "lumbar":
        # A blade that becomes higher towards its tip: thin upper edge, thick lower corner, shallow posterior notch.
        spinous = [
            ((0.0, arch - 2, -half * 0.15), (0.0, tip[1] + 2.5, -half * 0.45), (2.2, 2.2), (0.8, 1.0, 1.5)),
            ((0.0, arch - 2, -half * 0.45), (0.0, tip[1] + 3.0, -half * 0.80), (2.2, 2.4), (0.8, 1.0, 1.7)),
            ((0.0, arch - 2, -half * 0.70), (0.0, tip[1] + 1.0, -half * 1.15), (2.4, 3.6), (0.8, 1.0, 1.2)),
        ]
    facet_x = size.width * {"cervical": 0.50, "thoracic": 0.34, "lumbar": 0.36}[region]
    facet_height = {"cervical": 0.78, "thoracic": 0.80, "lumbar": 0.80}[region]
    gap = 4.3 * scale + 0.7
    elements: list[tuple] = [
        # pedicle, lamina
        ((pedicle_x, back + 4, pedicle_z), (pedicle_x, arch + 2, pedicle_z - 1), (3.3 * scale,) * 2, (1.0, 1.0, 1.7)),
        ((pedicle_x, arch + 3, 0.0), (0.0, arch - 4, -half * 0.55), (2.7 * scale,) * 2, (1.0, 1.0, 2.6)),
        # superior facet, anterior and lateral to the inferior facet of the vertebra above
        (
            (pedicle_x + 1, arch + 2, pedicle_z),
            (facet_x + 1.5, arch + 3.5, half + size.disc * facet_height),
            (3.4 * scale, 2.4 * scale),
            (1.0, 1.0, 1.0),
        ),
        (
            (pedicle_x * 0.8, arch - 2, -half * 0.5),
            (facet_x - 1.5, arch + 3.5 - gap * 1.25, -half - size.disc * facet_height - 2),
            (3.4 * scale, 2.6 * scale),
            (1.0, 1.0, 1.0),
        ),
        # transverse process
        (
            (pedicle_x + 1, arch + 4, pedicle_z * 0.5),
            (pedicle_x + size.transverse, arch + (6 if region == "cervical" else -3), pedicle_z * 0.5 + 2),
            (3.2 * scale, 2.0 * scale),
            (1.0, 0.8, 1.5),
        ),
        *spinous,
    ]
    if level == "S1":
        elements = [elements[0], elements[1], *spinous]
        # alae of the sacrum
        elements.append(((18.0, -2.0, 2.0), (46.0, -14.0, -4.0), (11.0, 12.0), (1.0, 1.0, 1.2)))
    return elements


def facet_tip(level: str, size: VertebraSize) -> tuple[float, float, float]:
    """Tip of the right superior facet in mm in the frame of a vertebra above S1."""
    return _posterior_elements(level, size)[2][1]


def vertebra_distance(
    grid: Grid, pose: Pose, level: str, size: VertebraSize | None = None, shape: dict | None = None, spurs: Sequence[tuple] = ()
) -> DistanceField:
    """Signed distance to a vertebra in its bounding box.

    Args:
        grid: grid of the scan.
        pose: position and orientation of the body.
        level: "C3" to "S1".
        size: sizes in mm; the mean of the level when None.
        shape: further arguments of ``shapes.vertebral_body``.
        spurs: capsules (start, end, radius, flatten) of osteophytes.
    """
    size = size or SIZES[level]
    union = DistanceField(grid, pose, radius=max(size.depth / 2 + size.canal + size.process + 12, size.width))
    if union.region is None:
        return union
    for start, end, radius, flatten in _posterior_elements(level, size):
        for side in (1.0, -1.0) if (start[0] or end[0]) else (1.0,):
            mirrored = [(p[0] * side, p[1], p[2]) for p in (start, end)]
            union.add_capsule(mirrored[0], mirrored[1], radius, flatten)
    union.carve_canal(size)
    union.add_body(size, seam=1.5, **(shape or {}))
    for start, end, radius, flatten in spurs:
        union.add_capsule(start, end, radius, flatten, seam=1.0)
    if level == "S1":
        # S2 to S4, fused to S1 and curved backwards
        for k, (y, z) in enumerate([(-9.0, -25.0), (-22.0, -46.0), (-38.0, -62.0)]):
            r = 15.0 - 3.0 * k
            union.add_capsule((-8.0 + 2 * k, y, z), (8.0 - 2 * k, y, z), (r * 0.75, r * 0.75), (1.4, 1.0, 1.2), seam=3.0)
    return union
