# SPDX-License-Identifier: Apache-2.0
"""The anatomical frame of one vertebra, found from a mask of vertebra instances: axes, walls, endplates, neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.genant import BodyHeights, heights_from_columns

STEP = 1.0  # mm between the samples of the frame
HALF_EXTENT_MM = (34.0, 34.0, 46.0)  # mm to each side of the body's centre: lateral, anterior, along the spine
MAX_GAP_MM = 16.0  # mm beyond an endplate over which tissue may give when no neighbour is met


class FrameError(ValueError):
    """The mask does not hold a whole vertebral body; the message says what is missing."""


@dataclass
class VertebraFrame:
    """Anatomical frame of a vertebra, sampled every ``STEP`` mm.

    Attributes:
        label: value in the instance mask.
        centre: centre of the body in world mm.
        axes: (3, 3), columns right, anterior, up as unit vectors in world coordinates.
        footprint: (X, Y) columns of the body without pedicles.
        depth: (X, Y) position between posterior (0) and anterior wall (1).
        top, bottom: (X, Y) endplates in mm along the up axis, continued smoothly beyond the footprint.
        ceiling, floor: (X, Y) where the next vertebra, or stiff tissue, begins.
        mask: (X, Y, T) share of the vertebra at every sample.
    """

    label: int
    centre: NDArray[np.floating]
    axes: NDArray[np.floating]
    footprint: NDArray[np.bool_]
    depth: NDArray[np.floating]
    top: NDArray[np.floating]
    bottom: NDArray[np.floating]
    ceiling: NDArray[np.floating]
    floor: NDArray[np.floating]
    mask: NDArray[np.float32]

    @property
    def heights(self) -> BodyHeights:
        """Heights of the body in mm."""
        return heights_from_columns(self.top - self.bottom, self.footprint, self.depth)


def axis_samples(axis: int) -> NDArray[np.floating]:
    """Coordinates in mm of the samples along one axis of every frame."""
    n = int(HALF_EXTENT_MM[axis] / STEP)
    return np.arange(-n, n + 1) * STEP


def frame_points(centre: NDArray, axes: NDArray, affine: NDArray) -> NDArray[np.floating]:
    """Voxel coordinates (3, X, Y, T) of the samples of a frame."""
    grid = np.stack(np.meshgrid(*(axis_samples(i) for i in range(3)), indexing="ij"))
    world = np.tensordot(axes, grid, axes=1) + centre[:, None, None, None]
    inverse = np.linalg.inv(affine)
    return np.tensordot(inverse[:3, :3], world, axes=1) + inverse[:3, 3][:, None, None, None]


def body_centre(
    labels: NDArray, affine: NDArray, label: int
) -> tuple[NDArray[np.floating], NDArray[np.floating], float]:
    """World centre of the body (the thickest part), of the whole vertebra, and half the thickness of the body, in mm.

    Raises:
        FrameError: when the label is absent.
    """
    boxes = ndimage.find_objects((labels == label).astype(np.uint8))
    if not boxes or boxes[0] is None:
        raise FrameError(f"vertebra {label} is not in the mask")
    box = boxes[0]
    mask = np.pad(labels[box] == label, 1)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    inner = ndimage.distance_transform_edt(mask, sampling=spacing)
    core = inner > 0.6 * inner.max()
    parts, _ = ndimage.label(core)
    core = parts == parts[np.unravel_index(int(np.argmax(inner)), inner.shape)]
    offset = np.array([b.start for b in box]) - 1

    def world(voxels: NDArray) -> NDArray[np.floating]:
        return affine[:3, :3] @ (np.argwhere(voxels).mean(axis=0) + offset) + affine[:3, 3]

    return world(core), world(mask), float(inner.max())


def _axes(centre: NDArray, whole: NDArray, above: NDArray | None, below: NDArray | None) -> NDArray[np.floating]:
    up = (centre if above is None else above) - (centre if below is None else below)
    up = np.array([0.0, 0.0, 1.0]) if np.linalg.norm(up) < 1e-6 else up / np.linalg.norm(up)
    # The posterior elements pull the vertebra's centroid back, which tells the front even in a rotated patient.
    front = centre - whole
    front = front - up * (front @ up)
    if np.linalg.norm(front) < 3.0 or front[1] < 0.5 * np.linalg.norm(front):
        front = np.array([0.0, 1.0, 0.0]) - up * up[1]
    front /= np.linalg.norm(front)
    return np.stack([np.cross(front, up), front, up], axis=1)


def _edge(values: NDArray, samples: NDArray, start: int, step: int) -> NDArray[np.floating]:
    """Coordinate in mm, walking from index ``start``, at which each column of ``values`` (X, Y, T) falls below one half."""
    n = values.shape[2]
    order = np.arange(start, n if step > 0 else -1, step)
    walk = values[:, :, order]
    outside = walk < 0.5
    first = np.where(outside.any(axis=2), outside.argmax(axis=2), len(order) - 1)
    before = np.take_along_axis(walk, np.maximum(first - 1, 0)[..., None], axis=2)[..., 0]
    after = np.take_along_axis(walk, first[..., None], axis=2)[..., 0]
    part = np.clip((before - 0.5) / np.maximum(before - after, 1e-6), 0, 1)
    return samples[order[np.maximum(first - 1, 0)]] + step * STEP * part * (first > 0)


def _continue(surface: NDArray, known: NDArray[np.bool_], sigma: float) -> NDArray[np.floating]:
    """Continue a surface beyond the columns where it is known, and smooth it there."""
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = surface[tuple(nearest)]
    return np.where(known, surface, ndimage.gaussian_filter(filled, sigma))


def measure_heights(mask: NDArray, footprint: NDArray[np.bool_], depth: NDArray) -> BodyHeights:
    """Heights of a body from its mask (X, Y, T) in a frame, in the columns of the intact ``footprint``."""
    t = axis_samples(2)
    middle = len(t) // 2
    return heights_from_columns(_edge(mask, t, middle, 1) - _edge(mask, t, middle, -1), footprint, depth)


def find_frame(
    labels: NDArray, affine: NDArray, label: int, above: int | None = None, below: int | None = None
) -> VertebraFrame:
    """Find the frame of a vertebra.

    Args:
        labels: instance mask (X, Y, Z), any orientation.
        affine: voxel to world (R, A, S) in mm.
        label: value of the vertebra.
        above: value of the next vertebra towards the head, if there is one.
        below: value of the next vertebra towards the feet, if there is one.

    Raises:
        FrameError: when no whole body is found.
    """
    centre, whole, radius = body_centre(labels, affine, label)
    found = [body_centre(labels, affine, n) if n is not None else None for n in (above, below)]
    # Of a neighbour that the border cuts, only posterior elements may be left: its thickest part is no body.
    neighbours = [n[0] if n is not None and n[2] > 0.65 * radius else None for n in found]
    axes = _axes(centre, whole, *neighbours)
    points = frame_points(centre, axes, affine)
    mask = ndimage.map_coordinates((labels == label).astype(np.float32), points, order=1)
    others = ((labels > 0) & (labels != label)).astype(np.float32)
    obstacle = ndimage.map_coordinates(others, points, order=1)

    x, y, t = (axis_samples(i) for i in range(3))
    middle = [len(s) // 2 for s in (x, y, t)]
    slab = mask[:, :, np.abs(t) <= 3.0].mean(axis=2) >= 0.5
    band = slab[np.abs(x) <= 4.0].mean(axis=0) >= 0.5
    if not band[middle[1]]:
        raise FrameError(f"vertebra {label} has no solid body around its centre")
    back, front = middle[1], middle[1]
    while back > 0 and band[back - 1]:
        back -= 1
    while front < len(y) - 1 and band[front + 1]:
        front += 1
    depth = np.broadcast_to((y - y[back] + STEP / 2) / (y[front] - y[back] + STEP), slab.shape).astype(float)
    footprint = slab & (depth >= 0) & (depth <= 1)
    parts, _ = ndimage.label(footprint)
    footprint = parts == parts[middle[0], middle[1]]
    footprint = ndimage.binary_fill_holes(footprint)
    if footprint.sum() * STEP**2 < 60:
        raise FrameError(f"vertebra {label} shows {footprint.sum() * STEP**2:.0f} mm2 of body, too little to measure")

    top, bottom = _edge(mask, t, middle[2], 1), _edge(mask, t, middle[2], -1)
    if (top - bottom)[footprint].mean() < 6:
        raise FrameError(f"vertebra {label} is lower than 6 mm")
    # Near the pedicles a column can run on into a joint process: hold such columns at the level of their surroundings.
    for surface, sign in ((top, 1), (bottom, -1)):
        smooth = sign * np.median(sign * surface[footprint])
        surface[footprint] = sign * np.minimum(sign * surface[footprint], sign * smooth + 5.0)
    top, bottom = _continue(top, footprint, 2.0), _continue(bottom, footprint, 2.0)

    def first_obstacle(sign: int, surface: NDArray) -> NDArray[np.floating]:
        distance = sign * (t[None, None, :] - surface[..., None])
        hit = (obstacle > 0.5) & (distance > 0)
        gap = np.where(hit, distance, MAX_GAP_MM).min(axis=2)
        gap = ndimage.grey_erosion(np.minimum(gap, MAX_GAP_MM), size=3)
        return surface + sign * np.maximum(ndimage.gaussian_filter(gap, 1.5), 1.5)

    ceiling, floor = first_obstacle(1, top), first_obstacle(-1, bottom)
    return VertebraFrame(label, centre, axes, footprint, depth, top, bottom, ceiling, floor, mask)
