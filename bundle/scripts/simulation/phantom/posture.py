# SPDX-License-Identifier: Apache-2.0
"""Sizes of one person's vertebrae, and how they stand upon each other in the field of view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.genant import AIMS
from ...core.vertebrae import LABELS
from ..style import Variation
from .anatomy import SIZES, VertebraSize
from .endplates import Collapse, draw_collapse
from .vertebra import Pose

if TYPE_CHECKING:
    from ..style import ScanStyle

DISH = {"cervical": 1.0, "other": 1.9}  # mm, mean concavity of an endplate


def mean_dish(level: str) -> float:
    """Mean concavity of the endplates of a level in mm."""
    return DISH["other" if LABELS[level] >= 8 else "cervical"]


def individual(rng: np.random.Generator, level: str, scale: float) -> VertebraSize:
    """Sizes of one vertebra of one person: everybody's ``scale`` and a few per cent of its own."""
    mean = SIZES[level]
    own = {n: getattr(mean, n) * scale * rng.normal(1, 0.025) for n in ("width", "depth", "height", "canal")}
    own["disc"] = mean.disc * scale * float(np.clip(rng.normal(0.95, 0.15), 0.5, 1.3))
    own["process"] = mean.process * scale * rng.normal(1, 0.06)
    own["transverse"] = mean.transverse * scale * rng.normal(1, 0.08)
    return replace(mean, **own)


def aged(rng: np.random.Generator, size: VertebraSize, variation: Variation) -> VertebraSize:
    """Sizes of a vertebra and its disc in a spine that differs from the healthy one."""
    disc = size.disc * variation.disc * float(np.clip(rng.normal(1, variation.disc_spread), 0.4, 1.5))
    return replace(size, disc=max(disc, 1.2), height=size.height * float(np.clip(rng.normal(1, 0.025), 0.93, 1.07)))


def place(
    rng: np.random.Generator,
    levels: tuple[str, ...],
    sizes: dict[str, VertebraSize],
    style: ScanStyle,
    collapses: Mapping[str, Collapse],
) -> dict[str, Pose]:
    """Stack the vertebrae along a curve with the lordosis and kyphosis of the region, in the middle of the field of view."""
    fov, variation = style.field_of_view, style.variation
    curvature, lean = rng.uniform(0.55, 1.05), rng.normal(0, 3)
    bend, phase = rng.normal(0, 1.6), rng.uniform(0, 6)
    tilts = {level: curvature * SIZES[level].tilt + lean + rng.normal(0, 1.0) for level in levels}
    if "S1" in levels:
        tilts["S1"] += 8
    # The spine leans forward above a wedge; people straighten a part of it elsewhere.
    seats = {v: {up: c.seat(up, sizes[v].depth) for up in (True, False)} for v, c in collapses.items()}
    lean_forward = 0.0
    straightened = 0.45 * sum(seat[up][1] for seat in seats.values() for up in seat)
    for level in levels if seats else ():
        lean_forward += seats[level][False][1] if level in seats else 0.0
        tilts[level] += 0.8 * (lean_forward - straightened)
        lean_forward += seats[level][True][1] if level in seats else 0.0

    def half_height(level: str, upper: bool) -> float:
        return sizes[level].height / 2 - (seats[level][upper][0] if level in seats else 0.0)

    # A scoliotic spine leans to the side in a slower curve and turns with it.
    scoliosis, rotation = (0.0, 0.0) if variation is None else (variation.scoliosis, variation.rotation)
    lying = (0.0, 0.0) if variation is None else variation.lying
    position, previous, poses = np.zeros(3), None, {}
    for k, level in enumerate(levels):
        curve = scoliosis * np.sin(0.45 * k + 1.3 * phase)
        sway = bend * np.sin(0.7 * k + phase) + curve + lying[0]
        turn = rng.normal(0, 1.0) + rotation * curve + lying[1]
        pose = Pose.tilted(np.zeros(3), tilts[level], coronal=sway, axial=turn)
        if previous is not None:
            last, half = poses[previous], half_height(previous, True)
            middle = last.axes[:, 2] + pose.axes[:, 2]
            disc = sizes[previous].disc * middle / np.linalg.norm(middle)
            position = last.centre + half * last.axes[:, 2] + disc + half_height(level, False) * pose.axes[:, 2]
        poses[level] = Pose(position, pose.axes)
        previous = level
    centres = np.array([p.centre for p in poses.values()])
    # The spine lies behind the middle of the scan; the lowest vertebra is near the lower border, the top may be cut.
    low = centres[0, 2] - sizes[levels[0]].height * rng.uniform(0.3, 0.9)
    offset = np.array([-centres[:, 0].mean(), -centres[:, 1].mean() - 0.04 * fov[1], -fov[2] / 2 - low])
    if variation is not None:
        # Any part of the spine may be what the scan shows; both ends may be cut.
        length = centres[-1, 2] - centres[0, 2]
        offset[2] -= variation.start * max(length - fov[2], 0.0)
        seen = np.abs(centres[:, 2] + offset[2]) < fov[2] / 2
        offset[:2] = -centres[seen, :2].mean(axis=0) if seen.any() else offset[:2]
        offset += [variation.shift[0], variation.shift[1] + 0.1 * fov[1], 0.0]
    return {level: Pose(p.centre + offset, p.axes) for level, p in poses.items()}


def choose_collapses(
    rng: np.random.Generator,
    wanted: Sequence[tuple[str, int]],
    poses: Mapping[str, Pose],
    sizes: Mapping[str, VertebraSize],
    style: ScanStyle,
) -> dict[str, Collapse]:
    """Give each shape and grade of ``wanted`` to a vertebra whose body the field of view holds, while there are any."""
    margin = np.array([sizes[v].height / 2 + 5 for v in poses])
    inside = [
        v
        for v, m in zip(poses, margin, strict=True)
        if abs(poses[v].centre[2]) + m < style.field_of_view[2] / 2 and v != "S1"
    ]
    chosen = [str(v) for v in rng.permutation(inside)[: len(wanted)]]
    return {
        level: draw_collapse(rng, shape, float(rng.uniform(*AIMS[grade])), sizes[level], mean_dish(level))
        for level, (shape, grade) in zip(chosen, wanted, strict=False)
    }
