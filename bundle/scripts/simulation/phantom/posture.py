# SPDX-License-Identifier: Apache-2.0
"""Sizes of the vertebrae of one phantom, and their poses in the field of view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...core.genant import SIMULATED_LOSS
from ...core.vertebrae import LABELS
from ..style import ScanStyle, Variation
from .anatomy import SIZES, VertebraSize
from .endplates import Collapse, sample_collapse
from .vertebra import Pose

FIRST_THORACIC = LABELS["T1"]


def mean_concavity(level: str) -> float:
    """Mean concavity of the endplates of a level in mm."""
    return 1.9 if LABELS[level] >= FIRST_THORACIC else 1.0


def sample_vertebra_size(rng: np.random.Generator, level: str, scale: float) -> VertebraSize:
    """Sample the sizes of a vertebra.

    Args:
        rng: random number generator.
        level: "C3" to "S1".
        scale: factor of all vertebrae of the patient.
    """
    mean = SIZES[level]
    sizes = {n: getattr(mean, n) * scale * rng.normal(1, 0.025) for n in ("width", "depth", "height", "canal")}
    sizes["disc"] = mean.disc * scale * float(np.clip(rng.normal(0.95, 0.15), 0.5, 1.3))
    sizes["process"] = mean.process * scale * rng.normal(1, 0.06)
    sizes["transverse"] = mean.transverse * scale * rng.normal(1, 0.08)
    return replace(mean, **sizes)


def apply_ageing(rng: np.random.Generator, size: VertebraSize, variation: Variation) -> VertebraSize:
    """Sizes with the disc height of the variation and another height of the body."""
    disc = size.disc * variation.disc_height * float(np.clip(rng.normal(1, variation.disc_height_std), 0.4, 1.5))
    return replace(size, disc=max(disc, 1.2), height=size.height * float(np.clip(rng.normal(1, 0.025), 0.93, 1.07)))


def stack_vertebrae(
    rng: np.random.Generator,
    levels: Sequence[str],
    sizes: Mapping[str, VertebraSize],
    style: ScanStyle,
    collapses: Mapping[str, Collapse],
) -> dict[str, Pose]:
    """Stack the vertebrae along the lordosis and kyphosis of the region, in the middle of the field of view.

    Args:
        rng: random number generator.
        levels: levels, lowest first.
        sizes: sizes by level.
        style: field of view, scoliosis and positioning.
        collapses: fractures by level, on which the spine above sinks and tilts.

    Returns:
        Poses by level, lowest first.
    """
    fov, variation = style.field_of_view, style.variation or Variation()
    curvature, lean = rng.uniform(0.55, 1.05), rng.normal(0, 3)
    bend, phase = rng.normal(0, 1.6), rng.uniform(0, 6)
    tilts = {level: curvature * SIZES[level].tilt + lean + rng.normal(0, 1.0) for level in levels}
    if "S1" in levels:
        tilts["S1"] += 8
    # The spine is kyphotic above a wedge; patients compensate for a part of it elsewhere.
    settling = {v: {upper: c.neighbour_settling(upper, sizes[v].depth) for upper in (True, False)} for v, c in collapses.items()}
    kyphosis = 0.0
    compensated = 0.45 * sum(s[upper][1] for s in settling.values() for upper in s)
    for level in levels if settling else ():
        kyphosis += settling[level][False][1] if level in settling else 0.0
        tilts[level] += 0.8 * (kyphosis - compensated)
        kyphosis += settling[level][True][1] if level in settling else 0.0

    def half_height(level: str, upper: bool) -> float:
        return sizes[level].height / 2 - (settling[level][upper][0] if level in settling else 0.0)

    position, previous, poses = np.zeros(3), None, {}
    for k, level in enumerate(levels):
        # A scoliotic spine rotates with its lateral curve.
        curve = variation.scoliosis * np.sin(0.45 * k + 1.3 * phase)
        coronal = bend * np.sin(0.7 * k + phase) + curve + variation.positioning[0]
        axial = rng.normal(0, 1.0) + variation.rotation * curve + variation.positioning[1]
        pose = Pose.tilted(np.zeros(3), tilts[level], coronal, axial)
        if previous is not None:
            last, half = poses[previous], half_height(previous, True)
            direction = last.axes[:, 2] + pose.axes[:, 2]
            disc = sizes[previous].disc * direction / np.linalg.norm(direction)
            position = last.centre + half * last.axes[:, 2] + disc + half_height(level, False) * pose.axes[:, 2]
        poses[level] = Pose(position, pose.axes)
        previous = level
    centres = np.array([p.centre for p in poses.values()])
    # The spine is posterior to the centre of the scan; the lowest vertebra is near the lower border, the highest may be cut.
    low = centres[0, 2] - sizes[levels[0]].height * rng.uniform(0.3, 0.9)
    offset = np.array([-centres[:, 0].mean(), -centres[:, 1].mean() - 0.04 * fov[1], -fov[2] / 2 - low])
    if style.variation is not None:
        # The field of view is anywhere along the spine, which it may cut at both ends.
        length = centres[-1, 2] - centres[0, 2]
        offset[2] -= variation.start * max(length - fov[2], 0.0)
        visible = np.abs(centres[:, 2] + offset[2]) < fov[2] / 2
        offset[:2] = -centres[visible, :2].mean(axis=0) if visible.any() else offset[:2]
        offset += [variation.shift[0], variation.shift[1] + 0.1 * fov[1], 0.0]
    return {level: Pose(p.centre + offset, p.axes) for level, p in poses.items()}


def sample_collapses(
    rng: np.random.Generator,
    fractures: Sequence[tuple[str, int]],
    poses: Mapping[str, Pose],
    sizes: Mapping[str, VertebraSize],
    style: ScanStyle,
) -> dict[str, Collapse]:
    """Assign fractures to random vertebrae whose body is in the field of view.

    Args:
        rng: random number generator.
        fractures: shape and Genant grade of each fracture; those beyond the number of vertebrae in view are dropped.
        poses: poses by level.
        sizes: sizes by level.
        style: field of view.

    Returns:
        Collapses by level.
    """
    limit = style.field_of_view[2] / 2
    visible = [v for v in poses if v != "S1" and abs(poses[v].centre[2]) + sizes[v].height / 2 + 5 < limit]
    levels = [str(v) for v in rng.permutation(visible)[: len(fractures)]]
    return {
        level: sample_collapse(rng, shape, float(rng.uniform(*SIMULATED_LOSS[grade])), sizes[level], mean_concavity(level))
        for level, (shape, grade) in zip(levels, fractures, strict=False)
    }
