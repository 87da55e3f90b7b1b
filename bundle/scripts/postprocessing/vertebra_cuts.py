# SPDX-License-Identifier: Apache-2.0
"""Cuts between vertebrae along the axis of the spine, by dynamic programming over a profile of body probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Length along the axis from disc to disc, mm: a collapsed cervical body with its disc, and a tall L3 with its discs.
MIN_LENGTH_MM, MAX_LENGTH_MM = 9.0, 52.0
EMPTY_PEAK = 0.4  # a segment whose profile stays below has no body
EMPTY_COST = 0.05
LENGTH_WEIGHT = 1.0  # of the squared log ratio of the lengths of neighbours
# Length of a vertebra with its disc per square root of the area of its body: about 1.05 from C3 to L5 in adults.
LENGTH_PER_WIDTH = 1.05
MIN_PITCH_MM = 15.0  # the smallest such length of an intact vertebra, C3 to C7
WIDTH_WEIGHT = 1.0  # of the squared log ratio of a length and the one expected by width
# Of a valley that a segment contains. A disc in plain view between two collapsed bodies outweighs the lengths that they have
# together, which are those of one normal vertebra.
VALLEY_WEIGHT = 2.0
# A collapsed vertebra between normal ones halves the length; a stronger change is no more unlikely.
MAX_LOG_RATIO = 0.7


@dataclass(frozen=True)
class Segment:
    """Part of the axis with one vertebral body.

    Attributes:
        start: index of the cut above.
        stop: index of the cut below.
    """

    start: int
    stop: int


def _valleys(profile: NDArray[np.float64], first: int, longest: int) -> NDArray[np.float64]:
    """Depth (longest + 1,) of the deepest valley inside segments that begin at ``first``, by length."""
    part = profile[first : first + longest + 1]
    depth = np.zeros(longest + 1)
    inside = np.tri(len(part), dtype=bool)  # points of every length
    values = np.where(inside, part, -np.inf)
    right = np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1]
    wall = np.minimum(np.maximum.accumulate(part), right)
    depth[: len(part)] = np.where(inside, wall - part, 0.0).max(axis=1)
    depth[:2] = 0.0
    return depth


def cut_profile(profile: NDArray[np.float64], width: NDArray[np.float64] | None = None, step_mm: float = 1.0) -> list[Segment]:
    """Segments of a profile that have one body each, from head to feet.

    Minimises the sum of four costs: the body probability in the cuts, also in those beside a part without a body, valleys that
    remain inside a segment, the squared log ratio of the lengths of neighbours, and that of a length and the width of the body.
    Where discs are visible the first two decide; where bodies are fused the others place the cuts, as vertebrae change little from
    level to level and are about as high as wide.

    Args:
        profile: (N,) body probability in discs across the axis, near 0 at both ends.
        width: (N,) square root of the area of the body across the axis, mm, see ``spine_axis.body_width``.
        step_mm: distance of its points.
    """
    count = len(profile)
    shortest, longest = max(round(MIN_LENGTH_MM / step_mm), 2), round(MAX_LENGTH_MM / step_mm)
    if count <= shortest:
        return [Segment(0, count - 1)] if count and profile.max() >= EMPTY_PEAK else []
    lengths = np.arange(longest + 1)
    logs = np.log(np.maximum(lengths, 1))
    # cost[i, l]: cheapest cuts of everything up to i whose last segment has length l; l = 0 stands for an empty segment.
    cost = np.full((count, longest + 1), np.inf)
    previous = np.zeros((count, longest + 1), np.int32)  # length of the segment before, 0 for none or an empty one
    empty_from = np.zeros(count, np.int32)
    cost[0, 0] = 0.0
    ratio = np.minimum(np.abs(logs[:, None] - logs[None, :]), MAX_LOG_RATIO) ** 2 * LENGTH_WEIGHT
    ratio[:, 0] = 0.0  # no neighbour
    for i in range(count):
        if not np.isfinite(cost[i]).any():
            continue
        reach = min(longest, count - 1 - i)
        valley = _valleys(profile, i, reach)
        peak = np.maximum.accumulate(profile[i : i + reach + 1])
        length = np.arange(1, reach + 1)
        stop = i + length
        cut = np.where(stop < count - 1, profile[stop], 0.0)
        empty = peak[1:] < EMPTY_PEAK
        best = int(np.argmin(cost[i]))
        value = cost[i, best] + EMPTY_COST + cut
        better = stop[empty & (value < cost[stop, 0])]
        cost[better, 0], previous[better, 0], empty_from[better] = value[better - i - 1], best, i
        whole = length[~empty & (length >= shortest)]
        if len(whole):
            total = cost[i] + ratio[whole]
            before = np.argmin(total, axis=1)
            middle = i + whole // 2
            expected = whole * step_mm if width is None else np.maximum(LENGTH_PER_WIDTH * width[middle], MIN_PITCH_MM)
            fit = WIDTH_WEIGHT * np.log(whole * step_mm / expected) ** 2
            cost[i + whole, whole] = total[np.arange(len(whole)), before] + fit + cut[whole - 1] + VALLEY_WEIGHT * valley[whole]
            previous[i + whole, whole] = before
    segments: list[Segment] = []
    at, last = count - 1, int(np.argmin(cost[count - 1]))
    while at > 0:
        start = int(empty_from[at]) if last == 0 else at - last
        if last:
            segments.append(Segment(start, at))
        at, last = start, int(previous[at, last])
    return segments[::-1]
