# SPDX-License-Identifier: Apache-2.0
"""Axis of the spine through the vertebral bodies, and a profile of the bodies along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter1d, map_coordinates, maximum_filter1d, percentile_filter

from ..core.components import label_components

STEP_MM = 1.0  # between the points of an axis
BODY_PROBABILITY = 0.5
MIN_BODY_ML = 1.0  # smaller components are noise; the body of a C3 has about 4 ml
MAX_DISC_MM = 15.0  # between two bodies of one spine
MAX_GAP_MM = 50.0  # a vertebra that was not detected
SMOOTHING_MM = 14.0  # standard deviation; half a vertebra, so that the axis follows the spine and not a wedged body
REACH_MM = 22.0  # of the bodies from the axis
WIDTH_WINDOW_MM = 45.0  # a vertebra and half of its neighbours
MAX_EXTENT_MM = 250.0  # of a spine with its processes, right-left and anterior-posterior
MARGIN_MM = 12.0  # of the axis beyond the first and the last body
BODY_HALF_MM, CORNER_EXPONENT = 18.0, 3.0  # planes count by their area relative to the largest within half a body, to this power
# Tilts of a disc against the plane across the axis, radians: around the lateral axis, and around the anterior axis.
PITCHES = np.radians([-24, -16, -8, 0, 8, 16, 24])
ROLLS = np.radians([-12, 0, 12])
# Radius of the disc in which bodies are averaged: within the smallest cervical body, clear of its cortical rim.
DISC_MM = 7.0


@dataclass(frozen=True)
class SpineAxis:
    """Curve from head to feet.

    Attributes:
        points: (N, 3) positions in mm from the centre of the first voxel, along R, A, S, every ``STEP_MM``.
        tangents: (N, 3) unit vectors towards the feet.
    """

    points: NDArray[np.float64]
    tangents: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.points)

    def frames(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Unit vectors (N, 3) to the right and to the front, across the axis."""
        right = np.array([1.0, 0.0, 0.0]) - self.tangents * self.tangents[:, :1]
        right /= np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-6)
        return right, np.cross(right, self.tangents)


def spine_bodies(body: NDArray, spacing: Sequence[float], at_border: bool = True) -> NDArray[np.bool_]:
    """Voxels of the vertebral bodies of one spine, without detections elsewhere.

    Bodies belong to one spine when the gap between them is a disc, or when they lie above or below its end.

    Args:
        body: probabilities (R, A, S).
        spacing: mm.
        at_border: keep smaller parts of a body that the border of the volume cuts.
    """
    mask = body > BODY_PROBABILITY
    components, count = label_components(mask)
    sizes = np.bincount(components.ravel(), minlength=count + 1) * float(np.prod(spacing)) / 1000
    minimum = np.full(count + 1, MIN_BODY_ML)
    if at_border:
        for face in (components[:, :, 0], components[:, :, -1]):
            minimum[np.unique(face)] = MIN_BODY_ML / 2
    keep = sizes >= minimum
    keep[0] = False
    mask = keep[components]
    if not mask.any():
        return mask
    reach = [max(round(mm / s), 1) for mm, s in zip((3.0, 3.0, MAX_DISC_MM / 2), spacing, strict=True)]
    closed = mask.view(np.uint8)
    for axis, n in enumerate(reach):  # a dilation by a box, in a time that does not depend on its size
        closed = maximum_filter1d(closed, 2 * n + 1, axis=axis, mode="constant")
    chains, count = label_components(closed > 0)
    boxes = find_objects(chains)
    volume = np.bincount(chains[mask], minlength=count + 1)
    order = sorted(range(1, count + 1), key=lambda n: -int(volume[n]))
    chosen: list[int] = []
    for number in order:
        box = boxes[number - 1]
        stacked = all(_overlaps_little(box, boxes[c - 1]) for c in chosen) and any(
            _stacked(box, boxes[c - 1], spacing) for c in chosen
        )
        if not chosen or (stacked and volume[number] * float(np.prod(spacing)) / 1000 >= 2 * MIN_BODY_ML):
            chosen.append(number)
    return mask & np.isin(chains, chosen)


def spine_box(body: NDArray, spacing: Sequence[float], margin_mm: float) -> tuple[slice, ...] | None:
    """Box around the bodies of one spine, found at half the resolution; None without a body.

    Args:
        body: probabilities (R, A, S).
        spacing: mm.
        margin_mm: on all sides, for posterior elements.
    """
    strides = [2 if n > 1 else 1 for n in body.shape]
    size = [s * d for s, d in zip(spacing, strides, strict=True)]
    bodies = spine_bodies(body[tuple(slice(None, None, d) for d in strides)], size)
    if not bodies.any():
        return None
    box = []
    for a, (n, d) in enumerate(zip(body.shape, strides, strict=True)):
        occupied = np.flatnonzero(bodies.any(axis=tuple(b for b in range(3) if b != a))) * d
        margin = math.ceil(margin_mm / spacing[a])
        low, high = max(int(occupied[0]) - margin, 0), min(int(occupied[-1]) + d + margin, n)
        longest = math.ceil(MAX_EXTENT_MM / spacing[a])
        if a < 2 and high - low > longest:  # bounds the memory; no spine is so wide
            middle = int(np.median(np.repeat(occupied, bodies.sum(axis=tuple(b for b in range(3) if b != a))[occupied // d])))
            low = min(max(middle - longest // 2, 0), n - longest)
            high = low + longest
        box.append(slice(low, high))
    return tuple(box)


def _overlaps_little(box: tuple[slice, ...], other: tuple[slice, ...]) -> bool:
    """True where a box has other heights than another one."""
    return min(box[2].stop, other[2].stop) - max(box[2].start, other[2].start) <= 0.3 * (box[2].stop - box[2].start)


def _stacked(box: tuple[slice, ...], other: tuple[slice, ...], spacing: Sequence[float]) -> bool:
    """True where a box lies above or below another one, within the course of a spine."""
    gap = max(max(box[2].start, other[2].start) - min(box[2].stop, other[2].stop), 0) * spacing[2]
    if gap > MAX_GAP_MM:
        return False
    for axis in (0, 1):
        apart = max(box[axis].start, other[axis].start) - min(box[axis].stop, other[axis].stop)
        if apart * spacing[axis] > max(0.35 * gap, 5.0):
            return False
    return True


def _resampled(points: NDArray[np.float64]) -> SpineAxis:
    """Axis through points (N, 3) with equal steps."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    steps = np.arange(0.0, length[-1] + STEP_MM / 2, STEP_MM)
    even = np.stack([np.interp(steps, length, points[:, a]) for a in range(3)], axis=1)
    tangents = gaussian_filter1d(np.gradient(even, axis=0), 4.0 / STEP_MM, axis=0, mode="nearest")
    return SpineAxis(even, tangents / np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-6))


def _smoothed(centres: NDArray[np.float64], weights: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Local linear fit of centres (N, D) with weights (N,), which bends less at the ends than an average."""
    position = np.arange(len(centres), dtype=float)
    result = np.empty_like(centres)
    for n in range(len(centres)):
        width = sigma
        w = weights * np.exp(-0.5 * ((position - n) / width) ** 2)
        while w.sum() < 1e-3 * weights.max() and width < 20 * len(centres):  # a gap without bodies
            width *= 2
            w = weights * np.exp(-0.5 * ((position - n) / width) ** 2)
        total = w.sum()
        mean_position, mean = (w * position).sum() / total, (w[:, None] * centres).sum(0) / total
        offset = position - mean_position
        variance = (w * offset**2).sum()
        slope = (w[:, None] * offset[:, None] * centres).sum(0) / variance if variance > total else 0.0
        result[n] = mean + slope * (n - mean_position)
    return result


def find_axis(bodies: NDArray[np.bool_], spacing: Sequence[float]) -> SpineAxis | None:
    """Axis through bodies (R, A, S), or None without any."""
    rows = np.flatnonzero(bodies.any(axis=(0, 1)))
    if len(rows) == 0:
        return None
    size = np.array(spacing, float)
    span = np.arange(rows[0], rows[-1] + 1)
    counts = bodies[:, :, span].sum(axis=(0, 1)).astype(float)
    right = (bodies[:, :, span].sum(axis=1) * np.arange(bodies.shape[0])[:, None]).sum(0)
    front = (bodies[:, :, span].sum(axis=0) * np.arange(bodies.shape[1])[:, None]).sum(0)
    centres = np.stack([right, front], axis=1) / np.maximum(counts, 1)[:, None]
    # A plane through the corner of a tilted body, the last one of a spine above all, is far from its middle.
    largest = maximum_filter1d(counts, round(2 * BODY_HALF_MM / size[2]) | 1, mode="nearest")
    smooth = _smoothed(centres, counts * (counts / np.maximum(largest, 1)) ** CORNER_EXPONENT, SMOOTHING_MM / size[2])
    points = np.concatenate([smooth, span[:, None]], axis=1)[::-1] * size
    margin = np.arange(MARGIN_MM, 0, -STEP_MM)[:, None]
    if len(points) < 3:
        directions = np.array([[0.0, 0.0, -1.0]] * 2)
    else:
        near = min(len(points) - 1, max(round(10.0 / size[2]), 1))
        directions = np.stack([points[near] - points[0], points[-1] - points[-1 - near]])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    above, below = points[0] - margin * directions[0], points[-1] + margin[::-1] * directions[1]
    return _resampled(np.concatenate([above, points, below]))


def disc_profile(
    volume: NDArray, axis: SpineAxis, spacing: Sequence[float], radius: float = DISC_MM
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of a volume in thin discs across the axis, each with the tilt of the lowest mean.

    A disc between two bodies is a plane of low body probability that need not be perpendicular to the axis, such as L5/S1.

    Args:
        volume: probabilities (R, A, S).
        axis: axis of the spine.
        spacing: mm.
        radius: radius of a disc in mm.

    Returns:
        Mean (N,) and normal (N, 3) of the disc at each point of the axis.
    """
    right, front = axis.frames()
    steps = np.arange(-radius, radius + 0.1, 2.0)
    u, v = (g.ravel() for g in np.meshgrid(steps, steps, indexing="ij"))
    inside = u**2 + v**2 <= radius**2
    u, v = u[inside], v[inside]
    values = np.asarray(volume, np.float32)
    best, normals = np.full(len(axis), np.inf), axis.tangents.copy()
    for pitch in PITCHES:
        for roll in ROLLS:
            rise = u * np.tan(roll) + v * np.tan(pitch)
            points = (
                axis.points[:, None]
                + right[:, None] * u[None, :, None]
                + front[:, None] * v[None, :, None]
                + axis.tangents[:, None] * rise[None, :, None]
            )
            coordinates = (points / np.array(spacing)).reshape(-1, 3).T
            mean = map_coordinates(values, coordinates, order=1, mode="constant").reshape(len(axis), -1).mean(axis=1)
            # A tilt is taken for what it gains, not for noise.
            mean = mean + 0.02 * (abs(pitch) + abs(roll)) / np.radians(8)
            better = mean < best
            normal = axis.tangents - right * np.tan(roll) - front * np.tan(pitch)
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            normals[better], best[better] = normal[better], mean[better]
    return best, normals


def body_width(bodies: NDArray[np.bool_], axis: SpineAxis, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Square root (N,) of the area of the bodies across the axis in mm, that of a body also at the discs next to it."""
    right, front = axis.frames()
    steps = np.arange(-1.3 * REACH_MM, 1.3 * REACH_MM + 0.1, 2.5)
    u, v = (g.ravel() for g in np.meshgrid(steps, steps, indexing="ij"))
    points = axis.points[:, None] + right[:, None] * u[None, :, None] + front[:, None] * v[None, :, None]
    coordinates = np.round(points / np.array(spacing)).astype(int)
    valid = ((coordinates >= 0) & (coordinates < np.array(bodies.shape))).all(axis=2)
    inside = np.zeros(valid.shape, bool)
    inside[valid] = bodies[tuple(coordinates[valid].T)]
    area = inside.sum(axis=1) * 2.5**2
    window = round(WIDTH_WINDOW_MM / STEP_MM) | 1
    return np.sqrt(gaussian_filter1d(percentile_filter(area.astype(float), 75, window, mode="nearest"), 8.0, mode="nearest"))
