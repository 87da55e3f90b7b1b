# SPDX-License-Identifier: Apache-2.0
"""A spine of templates: morphed between persons, resized, deformed, and articulated along the posture of the phantom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...core.vertebrae import LABELS
from ..phantom.anatomy import VertebraSize
from ..phantom.posture import apply_ageing, sample_vertebra_size, stack_vertebrae
from ..phantom.vertebra import OUTSIDE, Grid, Pose
from ..style import ScanStyle
from .templates import Template, Vertebra, neighbours, sample_deformation

# Levels of each region, lowest first; a folder without some of them makes a shorter spine.
REGIONS = {
    "lumbar": ("S1", "L5", "L4", "L3", "L2", "L1", "T12", "T11"),
    "thoracolumbar": ("L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9", "T8", "T7"),
    "thoracic": ("L1", "T12", "T11", "T10", "T9", "T8", "T7", "T6", "T5", "T4", "T3", "T2", "T1"),
}
MIN_LEVELS = 3  # of a region, for it to be made
CANAL_FRACTION = 0.85  # of the canal of the level, that surfaces of few triangles narrow
PATIENT_SCALE = (1.04, 0.06)  # mean and standard deviation, of bodies as large as those in masks of VerSe
PROCESSES, PROCESSES_FACETED = (0.92, 1.08), (1.0, 1.2)  # length; surfaces of few triangles have short processes
GAP_MM = 1.0  # of joint space between the surfaces of neighbours
MARGIN_MM = (2.0, 35.0)  # of tissue behind and in front of the bones, in addition to that of the rendering


@dataclass
class Spine:
    """An articulated spine.

    Attributes:
        labels: (X, Y, Z) VerSe labels along (R, A, S).
        affine: (4, 4) voxel to world in mm.
        poses: poses by level.
        sizes: sizes by level.
    """

    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    poses: dict[str, Pose]
    sizes: dict[str, VertebraSize]


def available_levels(region: str, templates: Mapping[str, Sequence[Template]]) -> list[str]:
    """Longest run of levels of a region, lowest first, that have a template."""
    best: list[str] = []
    run: list[str] = []
    for level in REGIONS[region]:
        run = [*run, level] if level in templates else []
        best = run if len(run) > len(best) else best
    return best


def available_regions(templates: Mapping[str, Sequence[Template]]) -> list[str]:
    """Regions of which at least ``MIN_LEVELS`` adjacent vertebrae have a template."""
    return [region for region in REGIONS if len(set(available_levels(region, templates)) - {"S1"}) >= MIN_LEVELS]


def sample_vertebra(
    rng: np.random.Generator,
    level: str,
    size: VertebraSize,
    templates: Mapping[str, Sequence[Template]],
    preference: Mapping[str, float],
) -> Vertebra:
    """Sample a vertebra whose body is a mixture of two persons, or of two levels of a person where there is only one.

    Posterior elements are those of one template but for a small part, as the mean of two would lose thin processes.

    Args:
        rng: random number generator.
        level: level of the vertebra.
        size: sizes in mm.
        templates: templates by level.
        preference: rank of the persons in this spine, the first of which has all posterior elements it can have.
    """
    own = sorted(templates[level], key=lambda t: (t.surface.faceted, preference[t.person]))
    first, others = own[0], own[1:]
    if not others:
        others = [t for v in neighbours(level)[1:] for t in templates.get(v, ()) if t.person == first.person]
    if level == "S1":
        others = [t for t in others if not t.surface.faceted]
    faceted = first.surface.faceted
    made = Vertebra(level, size, [(first, 1.0)], [(first, 1.0)], sample_deformation(rng))
    if others:
        other = others[int(rng.integers(len(others)))]
        body, arch = float(rng.uniform(0, 0.4 if other.surface.faceted and not faceted else 1)), float(rng.uniform(0, 0.2))
        made = replace(made, body=[(first, 1 - body), (other, body)], arch=[(first, 1 - arch), (other, arch)])
    made = replace(made, processes=float(rng.uniform(*(PROCESSES_FACETED if faceted else PROCESSES))))
    if level == "S1":
        return made
    if faceted:
        concavity, waist = rng.uniform(0.6, 2.0), rng.uniform(0.04, 0.10)
        return replace(made, concavity=float(concavity), waist=float(waist), canal=CANAL_FRACTION * size.canal)
    return replace(made, concavity=float(rng.normal(0, 0.4)), waist=float(rng.normal(0, 0.015)))


def world_box(pose: Pose, low: NDArray, high: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners (3,) in mm of the box along the world axes around a box ``low`` to ``high`` in the frame of a pose."""
    corners = np.array([[(low, high)[b][i] for i, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
    world = corners @ pose.axes.T + pose.centre
    return world.min(axis=0), world.max(axis=0)


def label_vertebrae(grid: Grid, poses: Mapping[str, Pose], vertebrae: Mapping[str, Vertebra]) -> NDArray[np.uint8]:
    """VerSe labels (X, Y, Z) of vertebrae, which do not overlap: a voxel has that of the deepest surface, by more than a gap.

    Args:
        grid: grid of the scan.
        poses: poses by level.
        vertebrae: vertebrae by level.
    """
    labels = np.zeros(grid.shape, np.uint8)
    nearest = np.full(grid.shape, OUTSIDE, np.float32)
    for level, vertebra in vertebrae.items():
        pose = poses[level]
        box = grid.box(*world_box(pose, *vertebra.reach()))
        if box is None:
            continue
        distance = vertebra.distance(grid.local(box, pose))
        before = nearest[box]
        # Half the gap is taken from each of two surfaces that touch.
        view = labels[box]
        view[(view > 0) & (before > distance - GAP_MM)] = 0
        view[(distance < 0) & (distance < before - GAP_MM)] = LABELS[level]
        np.minimum(before, distance, out=before)
    return labels


def make_spine(
    rng: np.random.Generator, templates: Mapping[str, Sequence[Template]], region: str, style: ScanStyle, spacing: Sequence[float]
) -> Spine:
    """Make a spine.

    Args:
        rng: random number generator.
        templates: templates by level.
        region: key of ``REGIONS``.
        style: posture, degeneration and height of the field of view.
        spacing: voxel size in mm along (R, A, S).

    Returns:
        Spine on a grid with a margin of tissue around the bones, cut above and below by the field of view.
    """
    levels = available_levels(region, templates)
    scale = float(np.clip(rng.normal(*PATIENT_SCALE), 0.88, 1.22))
    sizes = {level: sample_vertebra_size(rng, level, scale) for level in levels}
    if style.variation is not None:
        sizes = {level: apply_ageing(rng, size, style.variation) for level, size in sizes.items()}
    poses = stack_vertebrae(rng, levels, sizes, style, {})
    persons = sorted({t.person for level in levels for t in templates[level]})
    preference = {person: float(rank) for person, rank in zip(persons, rng.permutation(len(persons)), strict=True)}
    vertebrae = {level: sample_vertebra(rng, level, sizes[level], templates, preference) for level in levels}

    boxes = np.array([world_box(poses[level], *vertebrae[level].reach()) for level in levels])
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    low[1] -= rng.uniform(0, MARGIN_MM[0])
    high[1] += rng.uniform(*MARGIN_MM)
    half = style.field_of_view[2] / 2
    low[2], high[2] = max(low[2], -half), min(high[2], half)
    step = np.asarray(spacing, float)
    shape = tuple(int(n) for n in np.maximum(np.round((high - low) / step), 8))
    grid = Grid(low, step, shape)  # type: ignore[arg-type]
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = grid.origin
    return Spine(label_vertebrae(grid, poses, vertebrae), affine, poses, sizes)
