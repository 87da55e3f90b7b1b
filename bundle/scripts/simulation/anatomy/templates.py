# SPDX-License-Identifier: Apache-2.0
"""Templates of vertebrae: signed distance maps of persons in the frame of the body, morphed, resized and deformed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError
from ...postprocessing.vertebra_frame import FrameError
from ..phantom.anatomy import SIZES, VertebraSize
from .frames import person_axes, vertebra_frame
from .surfaces import person_folders, read_person
from .voxels import MARGIN_MM, STEP_MM, DistanceMap

SCALE_RANGE = (0.6, 1.6)  # of a template; beyond it the surface is no vertebra of the level
WAIST = 0.93  # width of a body at half height, of that at its endplates
BLEND_MM = 5.0  # behind the posterior wall, over which body and posterior elements of two persons meet
WAVES = 4  # of a random deformation, per axis
WAVELENGTH_MM = (35.0, 90.0)


@dataclass
class Template:
    """Vertebra of one person in the frame of its body: right, front and up, centred in the body.

    Attributes:
        person: name of the folder.
        level: "T1" to "L5", or "S1" for the sacrum.
        surface: signed distance map in the frame.
        size: width, depth and height (3,) of the body in mm.
    """

    person: str
    level: str
    surface: DistanceMap
    size: NDArray[np.float64]


@dataclass
class Warp:
    """Smooth random deformation, a sum of waves.

    Attributes:
        directions: (W, 3) wave vectors in radians per mm.
        phases: (W,) radians.
        amplitudes: (W, 3) mm.
    """

    directions: NDArray[np.float32]
    phases: NDArray[np.float32]
    amplitudes: NDArray[np.float32]

    @staticmethod
    def random(rng: np.random.Generator, std_mm: float) -> Warp:
        """Sample a deformation of a standard deviation in mm along every axis."""
        directions = rng.normal(size=(WAVES, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        length = rng.uniform(*WAVELENGTH_MM, (WAVES, 1))
        amplitudes = rng.normal(0, std_mm * np.sqrt(2 / WAVES), (WAVES, 3))
        phases = rng.uniform(0, 2 * np.pi, WAVES)
        return Warp(*(a.astype(np.float32) for a in (2 * np.pi * directions / length, phases, amplitudes)))

    def displaced(self, points: Sequence[NDArray]) -> list[NDArray]:
        """Points (x, y, z) in mm, displaced."""
        moved = list(points)
        for direction, phase, amplitude in zip(self.directions, self.phases, self.amplitudes, strict=True):
            wave = np.sin(direction[0] * points[0] + direction[1] * points[1] + direction[2] * points[2] + phase)
            moved = [m + a * wave for m, a in zip(moved, amplitude, strict=True)]
        return moved


@dataclass
class Vertebra:
    """A vertebra of a simulated spine: body and posterior elements of persons, resized and deformed.

    Attributes:
        level: level it stands for.
        size: sizes in mm.
        body, arch: templates with their weights, of the body and of the posterior elements.
        warp: random deformation.
        concavity: depth in mm by which both endplates are hollowed.
        waist: fraction by which the wall is narrowed at half height.
        canal: diameter in mm of the spinal canal where it is widened, 0 for that of the templates.
        processes: factor of the length of the processes, in addition to the size of the body.
    """

    level: str
    size: VertebraSize
    body: Sequence[tuple[Template, float]]
    arch: Sequence[tuple[Template, float]]
    warp: Warp
    concavity: float = 0.0
    waist: float = 0.0
    canal: float = 0.0
    processes: float = 1.0

    def scales(self, template: Template) -> NDArray[np.float64]:
        """Factors (3,) from a template to this vertebra along right, front and up."""
        waist = 1.0 if template.surface.faceted else WAIST  # walls of few triangles have none
        target = np.array([self.size.width * waist, self.size.depth, self.size.height])
        return np.clip(target / template.size, *SCALE_RANGE)

    def outer_scale(self, template: Template) -> float:
        """Factor from a template to this vertebra beyond the body; ribs and pedicles widen many bodies, so not from the width."""
        _, depth, height = self.scales(template)
        return float(np.sqrt(depth * height)) * self.processes

    def _in_template(self, template: Template, points: Sequence[NDArray]) -> NDArray:
        """Points (3, ...) of a template: the body is scaled along each axis, processes beyond it by one factor."""
        scales, outer = self.scales(template), self.outer_scale(template)
        local = []
        for axis, (point, scale, size) in enumerate(zip(points, scales, template.size, strict=True)):
            border = size / 2 * scale
            # In front of the body there are no processes.
            body = np.clip(point, -border, border if axis != 1 else None)
            local.append(body / scale + (point - body) / outer)
        return np.stack(local)

    def reach(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners (3,) in mm of a box around it, in its frame."""
        corners = []
        for template, _ in [*self.body, *self.arch]:
            low = template.surface.origin
            high = low + STEP_MM * (np.array(template.surface.distance.shape) - 1)
            corners.append(np.stack([low, high]) * np.maximum(self.scales(template), self.outer_scale(template)))
        return np.min([c[0] for c in corners], axis=0), np.max([c[1] for c in corners], axis=0)

    def _hollowed(self, points: Sequence[NDArray]) -> list[NDArray]:
        """Points (x, y, z) in mm from which a body with flat endplates and walls is read as one with concave ones."""
        x, y, z = points
        r2 = np.clip((2 * x / self.size.width) ** 2 + (2 * y / self.size.depth) ** 2, 0, 1)
        rise = 1 + 2 * self.concavity / self.size.height * (1 - r2) ** 1.5
        middle = np.clip(1 - (2 * z / self.size.height) ** 2, 0, 1)
        front = np.clip(2 * y / self.size.depth + 1, 0, 1)
        narrow = 1 + self.waist * middle * front
        return [x * narrow, y * np.where(y > 0, narrow, 1), z * rise]

    def distance(self, points: Sequence[NDArray]) -> NDArray[np.float32]:
        """Approximate signed distance in mm at points (x, y, z) in mm of its frame."""
        moved = self._hollowed(self.warp.displaced(points))
        behind = np.clip((-moved[1] - self.size.depth / 2) / BLEND_MM, 0, 1)
        weights: dict[int, list] = {}
        for part, share in ((self.body, 1 - behind), (self.arch, behind)):
            for template, weight in part:
                entry = weights.setdefault(id(template), [template, 0.0])
                entry[1] = entry[1] + weight * share
        total = np.zeros(np.shape(moved[0]), np.float32)
        for template, weight in weights.values():
            scale = self.scales(template)
            total += weight * template.surface.at(self._in_template(template, moved)) * float(scale.prod()) ** (1 / 3)
        if self.canal:
            centre = -(self.size.depth + self.canal) / 2
            inside = self.canal / 2 - np.hypot(moved[0], moved[1] - centre)
            total = np.maximum(total, inside)
        return total


def make_template(person: str, level: str, surface: DistanceMap, axes: NDArray) -> Template:
    """Resample a surface into the frame of its body.

    Args:
        person: name of the person.
        level: level of the vertebra.
        surface: signed distance map in mm.
        axes: approximate unit vectors right, front and up, as columns.

    Raises:
        FrameError: when the surface has no solid body.
    """
    centre, axes, size = vertebra_frame(surface, axes, sacrum=level == "S1")
    if level == "S1":
        mean = SIZES["S1"]  # its width is that of the endplate, which the alae hide
        size = (size[1] * mean.width / mean.depth, size[1], mean.height * size[1] / mean.depth)
    inside = (np.argwhere(surface.distance < 0) * STEP_MM + surface.origin - centre) @ axes
    low, high = inside.min(axis=0) - MARGIN_MM, inside.max(axis=0) + MARGIN_MM
    grid = np.stack(np.meshgrid(*(np.arange(a, b, STEP_MM) for a, b in zip(low, high, strict=True)), indexing="ij"))
    world = np.tensordot(axes, grid, axes=1) + centre[:, None, None, None]
    return Template(person, level, DistanceMap(surface.at(world), low, surface.faceted), np.array(size))


@lru_cache(maxsize=2)
def read_templates(folder: str) -> Mapping[str, Sequence[Template]]:
    """Templates of all persons below a folder by level; kept in memory.

    Raises:
        InputError: for files that cannot be used, see ``surfaces``.
    """
    templates: dict[str, list[Template]] = {}
    for path in person_folders(folder):
        surfaces = read_person(path)
        try:
            axes = person_axes(surfaces)
        except FrameError as error:
            raise InputError(f"{path}: {error}; must contain whole vertebrae with bodies") from None
        for level, surface in surfaces.items():
            try:
                person = path.relative_to(folder).as_posix()
                templates.setdefault(level, []).append(make_template(person, level, surface, axes))
            except FrameError as error:
                raise InputError(f"{path}: {level}: {error}; remove its surface") from None
    return templates


def sample_deformation(rng: np.random.Generator, std_mm: float = 0.7) -> Warp:
    """Deformation that makes no two vertebrae equal."""
    return Warp.random(rng, std_mm * float(rng.uniform(0.3, 1.3)))


def neighbours(level: str) -> list[str]:
    """Levels of like shape: itself, and those above and below in the same region."""
    region, number = level[0], int(level[1:])
    near = [f"{region}{n}" for n in (number, number - 1, number + 1)]
    return [v for v in near if v in SIZES] if region != "S" else [level]
