# SPDX-License-Identifier: Apache-2.0
"""Signed distances in mm, negative inside, to the primitives of the phantom's bones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def smooth_minimum(a: Array, b: Array, radius: float) -> Array:
    """Union of two distances with a rounded seam of ``radius`` mm (polynomial smooth minimum)."""
    h = np.clip(0.5 + 0.5 * (b - a) / radius, 0.0, 1.0)
    return b + (a - b) * h - radius * h * (1.0 - h)


def smooth_maximum(a: Array, b: Array, radius: float) -> Array:
    """Intersection of two distances with a rounded edge of ``radius`` mm."""
    return -smooth_minimum(-a, -b, radius)


def capsule(
    points: tuple[Array, Array, Array],
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: tuple[float, float],
    flatten: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Array:
    """Distance to a capsule whose radius changes linearly from ``start`` to ``end``.

    Args:
        points: x, y, z coordinates in mm, broadcastable against each other.
        start: first end of the axis in mm.
        end: second end of the axis in mm.
        radius: radius at both ends in mm.
        flatten: factor of the thickness along each axis.
    """
    scaled = [p / f for p, f in zip(points, flatten, strict=True)]
    a = [s / f for s, f in zip(start, flatten, strict=True)]
    axis = [e / f - s for e, f, s in zip(end, flatten, a, strict=True)]
    length2 = max(sum(c * c for c in axis), 1e-6)
    rel = [p - s for p, s in zip(scaled, a, strict=True)]
    t = np.clip(sum(r * c for r, c in zip(rel, axis, strict=True)) / length2, 0.0, 1.0)
    distance = np.sqrt(sum((r - t * c) ** 2 for r, c in zip(rel, axis, strict=True)))
    return (distance - (radius[0] + t * (radius[1] - radius[0]))).astype(np.float32)


def vertebral_body(
    points: tuple[Array, Array, Array],
    width: float,
    depth: float,
    height: float,
    concavity: float = 1.5,
    waist: float = 0.07,
    lordosis: float = 0.0,
    skew: tuple[float, float] = (0.0, 0.0),
    relief: tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]] | None = None,
) -> Array:
    """Distance to a vertebral body centred at the origin: waisted wall, concave endplates, rounded rim.

    Args:
        points: x (left-right), y (anterior positive), z (up) in mm.
        width: left-right extent in mm.
        depth: anterior-posterior extent in mm.
        height: mean height in mm.
        concavity: depth of both endplates in mm.
        waist: fraction by which the wall is narrower at half height.
        lordosis: fraction by which the anterior wall is higher than the middle (negative: lower).
        skew: slopes of the upper endplate along x and y.
        relief: depression of the upper and the lower endplate, see ``endplates``.
    """
    x, y, z = points
    u, v = x / (width / 2), y / (depth / 2)
    # Superellipse whose exponent is greater on the flat posterior side.
    r = (np.abs(u) ** 2.4 + np.abs(v) ** np.where(v < 0, np.float32(3.2), np.float32(2.1))) ** (1 / 2.4)
    half = height / 2 * (1 + lordosis * np.clip(v, -1, 1))
    flare = 1 - waist * np.clip(1 - (z / half) ** 2, 0, 1)
    wall = (r / flare - 1) * min(width, depth) / 2
    dish = concavity * np.clip(1 - r * r, 0, 1) ** 1.5
    top = z - skew[0] * x - skew[1] * y - (half - dish)
    bottom = -z - (half - dish)
    if relief is not None:
        # Constant extrapolation beyond the rim.
        inside = [np.clip(c, -1, 1) for c in (u, v)]
        top, bottom = top + relief[0](*inside), bottom + relief[1](*inside)
    return smooth_maximum(wall.astype(np.float32), np.maximum(top, bottom).astype(np.float32), 2.0)
