# SPDX-License-Identifier: Apache-2.0
"""Anatomical frame of one vertebra from a mask of vertebra instances: axes, walls, endplates, neighbours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.genant import BodyHeights, heights_from_columns

STEP_MM = 1.0  # between the samples of a frame
HALF_EXTENT_MM = (34.0, 34.0, 46.0)  # to each side of the centre of the body: lateral, anterior, along the spine
MAX_GAP_MM = 16.0  # of deformable tissue beyond an endplate without a neighbour
NEGLIGIBLE = 0.01  # of a probability, beside a surface at one half
MIN_BODY_AREA_MM2 = 60
MIN_BODY_HEIGHT_MM = 6  # of a body that is deformed
MIN_HEIGHT_MM = 3.0  # mean height of a body; a vertebra plana has more
MIN_RADIUS_FRACTION = 0.65  # of the radius of the body, for a neighbour whose body is in the mask


class FrameError(ValueError):
    """A mask without a whole vertebral body; the message names what is missing."""


@dataclass
class VertebraFrame:
    """Anatomical frame of a vertebra, sampled every ``STEP_MM``.

    Attributes:
        label: value in the instance mask.
        centre: (3,) centre of the body in world mm.
        axes: (3, 3) unit vectors right, anterior and up in world coordinates, as columns.
        footprint: (X, Y) columns of the body without pedicles.
        depth: (X, Y) position between the posterior (0) and the anterior wall (1).
        top, bottom: (X, Y) endplates in mm along the up axis, extrapolated beyond the footprint.
        ceiling, floor: (X, Y) positions in mm at which the next vertebra or rigid tissue begins.
        mask: (X, Y, T) fraction of the vertebra in every sample.
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
    """Coordinates in mm of the samples of a frame along one axis."""
    n = int(HALF_EXTENT_MM[axis] / STEP_MM)
    return np.arange(-n, n + 1) * STEP_MM


def frame_points(centre: NDArray, axes: NDArray, affine: NDArray) -> NDArray[np.floating]:
    """Voxel coordinates (3, X, Y, T) of the samples of a frame."""
    grid = np.stack(np.meshgrid(*(axis_samples(i) for i in range(3)), indexing="ij"))
    world = np.tensordot(axes, grid, axes=1) + centre[:, None, None, None]
    inverse = np.linalg.inv(affine)
    return np.tensordot(inverse[:3, :3], world, axes=1) + inverse[:3, 3][:, None, None, None]


def sample_frame(volume: NDArray, centre: NDArray, axes: NDArray, affine: NDArray) -> NDArray[np.floating]:
    """Values (X, Y, T) of a volume at the samples of a frame, linear between voxels, 0 outside.

    Only samples near voxels above ``NEGLIGIBLE`` are computed; most of a frame lies beside the vertebra.
    """
    extent = [axis_samples(i) for i in range(3)]
    result = np.zeros([len(e) for e in extent], volume.dtype)
    box = _occupied(volume)
    if box is None:
        return result
    inverse = np.linalg.inv(affine)
    matrix = inverse[:3, :3] @ axes * STEP_MM
    first = inverse[:3, :3] @ (axes @ np.array([e[0] for e in extent]) + centre) + inverse[:3, 3]
    first = first - [s.start for s in box]
    corners = np.array(list(itertools.product(*((0, s.stop - s.start - 1) for s in box))))
    reached = np.linalg.solve(matrix, (corners - first).T)
    low = np.maximum(np.floor(reached.min(axis=1)).astype(int), 0)
    high = np.minimum(np.ceil(reached.max(axis=1)).astype(int) + 1, result.shape)
    if (low < high).all():
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        offset = first + matrix @ low
        result[part] = ndimage.affine_transform(volume[box], matrix, offset, output_shape=tuple(high - low), order=1)
    return result


def _occupied(volume: NDArray) -> tuple[slice, ...] | None:
    """Box of the voxels above ``NEGLIGIBLE`` with a margin that interpolation reaches, None where there are none."""
    boxes = ndimage.find_objects((volume > NEGLIGIBLE).astype(np.uint8))
    if not boxes:
        return None
    return tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in boxes[0])


def body_centre(labels: NDArray, affine: NDArray, label: int) -> tuple[NDArray[np.floating], NDArray[np.floating], float]:
    """Centre of the body of a vertebra, its thickest part.

    Args:
        labels: (X, Y, Z) instance mask.
        affine: (4, 4) voxel to world in mm.
        label: value of the vertebra.

    Returns:
        World centre of the body, world centre of the vertebra, and radius of the greatest sphere in the body, in mm.

    Raises:
        FrameError: when the label is absent.
    """
    boxes = ndimage.find_objects((labels == label).astype(np.uint8))
    if not boxes or boxes[0] is None:
        raise FrameError(f"vertebra {label} is not in the mask")
    box = boxes[0]
    mask = np.pad(labels[box] == label, 1)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    distance = ndimage.distance_transform_edt(mask, sampling=spacing)
    components, _ = ndimage.label(distance > 0.6 * distance.max())
    body = components == components[np.unravel_index(int(np.argmax(distance)), distance.shape)]
    offset = np.array([b.start for b in box]) - 1

    def world_centre(voxels: NDArray) -> NDArray[np.floating]:
        return affine[:3, :3] @ (np.argwhere(voxels).mean(axis=0) + offset) + affine[:3, 3]

    return world_centre(body), world_centre(mask), float(distance.max())


def body_axes(centre: NDArray, centroid: NDArray, above: NDArray | None, below: NDArray | None) -> NDArray[np.floating]:
    """Axes of a vertebra from the centre of its body, its centroid, and the centres of its neighbours."""
    up = (centre if above is None else above) - (centre if below is None else below)
    up = np.array([0.0, 0.0, 1.0]) if np.linalg.norm(up) < 1e-6 else up / np.linalg.norm(up)
    # The posterior elements shift the centroid backwards, so its offset points to the front of a rotated patient, too.
    front = centre - centroid
    front = front - up * (front @ up)
    if np.linalg.norm(front) < 3.0 or front[1] < 0.5 * np.linalg.norm(front):
        front = np.array([0.0, 1.0, 0.0]) - up * up[1]
    front /= np.linalg.norm(front)
    return np.stack([np.cross(front, up), front, up], axis=1)


def endplate_surface(mask: NDArray, direction: int) -> NDArray[np.floating]:
    """First surface (X, Y) in mm from the centre of a frame in one direction (1 or -1) along its last axis.

    It is interpolated to where a column of ``mask`` (X, Y, T) falls below one half.
    """
    samples = axis_samples(2)
    order = np.arange(len(samples) // 2, len(samples) if direction > 0 else -1, direction)
    columns = mask[:, :, order]
    outside = columns < 0.5
    first = np.where(outside.any(axis=2), outside.argmax(axis=2), len(order) - 1)
    last_inside = np.maximum(first - 1, 0)
    before = np.take_along_axis(columns, last_inside[..., None], axis=2)[..., 0]
    after = np.take_along_axis(columns, first[..., None], axis=2)[..., 0]
    fraction = np.clip((before - 0.5) / np.maximum(before - after, 1e-6), 0, 1)
    return samples[order[last_inside]] + direction * STEP_MM * fraction * (first > 0)


def _extrapolate(surface: NDArray, valid: NDArray[np.bool_], sigma: float) -> NDArray[np.floating]:
    """Smooth continuation of a surface beyond its ``valid`` columns."""
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return np.where(valid, surface, ndimage.gaussian_filter(surface[tuple(nearest)], sigma))


def measure_heights(mask: NDArray, footprint: NDArray[np.bool_], depth: NDArray) -> BodyHeights:
    """Heights of a body in mm.

    Args:
        mask: (X, Y, T) body in the frame of the intact vertebra.
        footprint: (X, Y) columns of the intact body.
        depth: (X, Y) position between the posterior (0) and the anterior wall (1).
    """
    return heights_from_columns(endplate_surface(mask, 1) - endplate_surface(mask, -1), footprint, depth)


def body_footprint(mask: NDArray, label: int) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """Columns of the body in a mask (X, Y, T) of the frame, and their position between posterior and anterior wall.

    Raises:
        FrameError: when there is no solid body at the centre.
    """
    x, y, t = (axis_samples(i) for i in range(3))
    slab = mask[:, :, np.abs(t) <= 3.0].mean(axis=2) >= 0.5
    midline = slab[np.abs(x) <= 4.0].mean(axis=0) >= 0.5
    back = front = len(y) // 2
    if not midline[back]:
        raise FrameError(f"vertebra {label} has no solid body at its centre")
    while back > 0 and midline[back - 1]:
        back -= 1
    while front < len(y) - 1 and midline[front + 1]:
        front += 1
    depth = np.broadcast_to((y - y[back] + STEP_MM / 2) / (y[front] - y[back] + STEP_MM), slab.shape).astype(float)
    components, _ = ndimage.label(slab & (depth >= 0) & (depth <= 1))
    footprint = ndimage.binary_fill_holes(components == components[len(x) // 2, len(y) // 2])
    area = footprint.sum() * STEP_MM**2
    if area < MIN_BODY_AREA_MM2:
        raise FrameError(f"vertebra {label} shows only {area:.0f} mm2 of its body, too little to measure")
    return footprint, depth


def _obstacle(obstacles: NDArray, surface: NDArray, direction: int) -> NDArray[np.floating]:
    """First obstacle (X, Y) in mm beyond a surface in one direction (1 or -1), at most ``MAX_GAP_MM`` away."""
    distance = direction * (axis_samples(2)[None, None, :] - surface[..., None])
    gap = np.where((obstacles > 0.5) & (distance > 0), distance, MAX_GAP_MM).min(axis=2)
    gap = ndimage.grey_erosion(np.minimum(gap, MAX_GAP_MM), size=3)
    return surface + direction * np.maximum(ndimage.gaussian_filter(gap, 1.5), 1.5)


def find_frame(
    labels: NDArray,
    affine: NDArray,
    label: int,
    above: int | None = None,
    below: int | None = None,
    limits: bool = True,
    min_height_mm: float = MIN_BODY_HEIGHT_MM,
) -> VertebraFrame:
    """Find the frame of a vertebra.

    Args:
        labels: (X, Y, Z) instance mask, any orientation.
        affine: (4, 4) voxel to world (R, A, S) in mm.
        label: value of the vertebra.
        above: value of the next vertebra towards the head, if there is one.
        below: value of the next vertebra towards the feet, if there is one.
        limits: find ``ceiling`` and ``floor``; without it they are the endplates.
        min_height_mm: least mean height of a body.

    Raises:
        FrameError: when the mask contains no whole body of the vertebra.
    """
    centre, centroid, radius = body_centre(labels, affine, label)
    neighbours = [body_centre(labels, affine, n) if n is not None else None for n in (above, below)]
    # Of a neighbour that is cut by the border, the mask may contain only posterior elements.
    centres = [n[0] if n is not None and n[2] > MIN_RADIUS_FRACTION * radius else None for n in neighbours]
    axes = body_axes(centre, centroid, *centres)
    mask = sample_frame((labels == label).astype(np.float32), centre, axes, affine)
    footprint, depth = body_footprint(mask, label)

    top, bottom = endplate_surface(mask, 1), endplate_surface(mask, -1)
    if (top - bottom)[footprint].mean() < min_height_mm:
        raise FrameError(f"vertebra {label} has a body of less than {min_height_mm:g} mm in height")
    # A column near the pedicles can extend into an articular process: it is limited to the height of the body.
    for surface, sign in ((top, 1), (bottom, -1)):
        median = sign * np.median(sign * surface[footprint])
        surface[footprint] = sign * np.minimum(sign * surface[footprint], sign * median + 5.0)
    top, bottom = _extrapolate(top, footprint, 2.0), _extrapolate(bottom, footprint, 2.0)
    ceiling, floor = top, bottom
    if limits:
        obstacles = sample_frame(((labels > 0) & (labels != label)).astype(np.float32), centre, axes, affine)
        ceiling, floor = _obstacle(obstacles, top, 1), _obstacle(obstacles, bottom, -1)
    return VertebraFrame(label, centre, axes, footprint, depth, top, bottom, ceiling, floor, mask)
