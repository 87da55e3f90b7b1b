# SPDX-License-Identifier: Apache-2.0
"""Share of the spine that the instances of a pass cover, estimated from the scan without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, map_coordinates

from ..inference.vertebrae import ScanVertebrae
from ..postprocessing.spine_axis import STEP_MM

GAP_FACTOR = 1.6  # of the median distance of neighbours; L4 to L5 has about 1.4 times that of T4 to T5
MIN_NEIGHBOURS = 3  # vertebrae from which a median of distances is of any use
BRIGHT_HU = (90.0, 130.0)  # bone; discs and muscle are below
BRIGHT_FRACTION = 0.75  # of the median HU of the found bodies: bone within these limits, so that osteoporotic bodies are bright
BRIGHT_SHARE = 0.3  # of a disc across the axis, from which it is bone
DISC_RADIUS_MM = 9.0  # within the smallest body, clear of the canal
REACH_MM = 60.0  # of the straight continuation of the axis beyond the instances; further on it is no estimate of the spine
NEAR_MM = 5.0  # along the axis, within which bone is the rim of an instance
NAN = float("nan")


@dataclass
class Coverage:
    """Coverage of the spine of a scan.

    Attributes:
        vertebrae: instances.
        cut: instances that the border of the scan cuts.
        gaps: names of neighbours that lie further apart than ``GAP_FACTOR`` times the median distance.
        bright_mm: length of bright bone or instances along the axis, from ``REACH_MM`` above the first to the end of the last.
        uncovered: fraction of it without an instance; NaN without any.
        below_mm: length of bright bone below the last instance, often the sacrum.
        bone: True where the scan has bone, see ``inference.regions``.
    """

    vertebrae: int = 0
    cut: int = 0
    gaps: list[str] = field(default_factory=list)
    bright_mm: float = 0.0
    uncovered: float = NAN
    below_mm: float = 0.0
    bone: bool = False


def _extended(points: NDArray[np.float64], tangents: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Points and tangents (N, 3) of an axis with straight continuations of ``REACH_MM`` at both ends."""
    steps = np.arange(STEP_MM, REACH_MM + STEP_MM / 2, STEP_MM)
    above = points[0] - steps[::-1, None] * tangents[0]
    below = points[-1] + steps[:, None] * tangents[-1]
    ends = np.repeat(tangents[:1], len(steps), 0), np.repeat(tangents[-1:], len(steps), 0)
    return np.concatenate([above, points, below]), np.concatenate([ends[0], tangents, ends[1]])


def _discs(points: NDArray, tangents: NDArray) -> NDArray[np.float64]:
    """Positions (N, M, 3) in mm of discs across an axis."""
    right = np.array([1.0, 0.0, 0.0]) - tangents * tangents[:, :1]
    right /= np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-6)
    front = np.cross(right, tangents)
    steps = np.arange(-DISC_RADIUS_MM, DISC_RADIUS_MM + 0.1, 1.5)
    u, v = (g.ravel() for g in np.meshgrid(steps, steps, indexing="ij"))
    inside = u**2 + v**2 <= DISC_RADIUS_MM**2
    u, v = u[inside], v[inside]
    return points[:, None] + right[:, None] * u[None, :, None] + front[:, None] * v[None, :, None]


def gaps_between(centres: NDArray[np.float64], names: Sequence[str]) -> list[str]:
    """Neighbours that lie further apart than ``GAP_FACTOR`` times the median distance, such as "L1 to L3".

    Args:
        centres: (N, 3) centres of the bodies in mm, from the head to the feet.
        names: their names.
    """
    if len(centres) < MIN_NEIGHBOURS:
        return []
    distances = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    wide = distances > GAP_FACTOR * np.median(distances)
    return [f"{a} to {b}" for (a, b), far in zip(pairwise(names), wide, strict=True) if far]


def measure_coverage(found: ScanVertebrae, volume: NDArray[np.int16], spacing: Sequence[float], bone: bool) -> Coverage:
    """Measure the coverage of the spine by the instances of a pass.

    Args:
        found: vertebrae of the pass.
        volume: HU (R, A, S) on the working grid.
        spacing: mm.
        bone: True where the scan has bone, see ``inference.regions``.
    """
    records, instances = found.records, found.decisions.instances
    result = Coverage(len(records), sum(not r.complete for r in records), bone=bone)
    if not records or instances.axis is None:
        return result
    size, origin = np.array(spacing, float), np.array(found.origin)
    centres = []
    for record, box in zip(records, find_objects(instances.labels), strict=False):
        if box is None:
            return result
        inside = np.argwhere((instances.labels[box] == record.vertebra) & instances.bodies[box])
        centres.append((inside.mean(axis=0) + [s.start for s in box]) * size)
    result.gaps = gaps_between(np.array(centres), [r.name for r in records])
    points, tangents = _extended(instances.axis.points, instances.axis.tangents)
    positions = _discs(points, tangents) / size
    whole = positions + origin
    inside = ((whole >= 0) & (whole <= np.array(volume.shape) - 1)).all(axis=2)
    hu = map_coordinates(volume, whole.reshape(-1, 3).T, order=1, mode="nearest", output=np.float32).reshape(inside.shape)
    bodies = volume[tuple(slice(o, o + n) for o, n in zip(found.origin, instances.bodies.shape, strict=True))][instances.bodies]
    threshold = float(np.clip(BRIGHT_FRACTION * np.median(bodies), *BRIGHT_HU))
    bright = (inside & (hu > threshold)).mean(axis=1) >= BRIGHT_SHARE
    nearest = map_coordinates(
        (instances.labels > 0).astype(np.uint8), positions.reshape(-1, 3).T, order=0, mode="constant"
    ).reshape(inside.shape)
    covered = np.flatnonzero(nearest.mean(axis=1) >= BRIGHT_SHARE)
    if not len(covered):
        return result
    index = np.arange(len(points))
    distance = np.abs(index[:, None] - covered[None]).min(axis=1) * STEP_MM
    missing = bright & (distance > NEAR_MM)
    last = int(covered[-1])
    bright[covered] = True
    result.bright_mm = float(bright[: last + 1].sum() * STEP_MM)
    result.below_mm = float(missing[last + 1 :].sum() * STEP_MM)
    if result.bright_mm:
        result.uncovered = float(missing[: last + 1].sum() * STEP_MM / result.bright_mm)
    return result
