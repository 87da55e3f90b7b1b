# SPDX-License-Identifier: Apache-2.0
"""Relief of the endplates of a phantom's vertebra: unevenness, Schmorl nodes, collapse by a fracture.

A relief is a function of (u, v), each -1 to 1 from left to right and from posterior to anterior. Its value is the depression of the
endplate in mm below that of ``shapes.vertebral_body``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...core.genant import SHAPES, grade_of
from .anatomy import VertebraSize
from .shapes import Array

Relief = Callable[[Array, Array], Array]

ZONES = {"anterior": 0.65, "middle": 0.0, "posterior": -0.65}  # v at the centre of the zones of genant.heights_from_columns
RIM = 0.9  # v of the rim, which supports the neighbouring vertebra
MAX_LOSS = 0.72  # of the height, anywhere on the endplate


def uneven_surface(rng: np.random.Generator, std: float, count: int = 5, width: float = 0.45) -> Relief:
    """Sum of ``count`` Gaussian hills and dents with heights of standard deviation ``std``."""
    centres, heights = rng.uniform(-1, 1, (count, 2)), rng.normal(0, std, count)

    def relief(u: Array, v: Array) -> Array:
        total = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
        for (a, b), h in zip(centres, heights, strict=True):
            total += (h * np.exp(-((u - a) ** 2 + (v - b) ** 2) / width**2)).astype(np.float32)
        return total

    return relief


def schmorl_node(rng: np.random.Generator, size: VertebraSize) -> Relief:
    """Herniation of a disc through the endplate: a rounded depression of 2 to 6 mm."""
    a, b = float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.6, 0.4))
    depth = float(rng.uniform(2.0, min(6.0, 0.22 * size.height)))
    radius = float(rng.uniform(3.0, 6.5))

    def relief(u: Array, v: Array) -> Array:
        distance = np.hypot((u - a) * size.width / 2, (v - b) * size.depth / 2)
        return (depth * np.clip(1 - (distance / radius) ** 2, 0, 1)).astype(np.float32)

    return relief


def large_schmorl_node(rng: np.random.Generator, size: VertebraSize, side: float) -> Relief:
    """Wide depression with steep walls, in the middle or posterior part of the endplate.

    Beside the midline it is up to a quarter of the height deep. Where it takes the middle of the mid-sagittal slices, in which the
    height of a body is measured, it is shallower, so that it is no biconcave fracture by height.

    Args:
        rng: random number generator.
        size: sizes of the vertebra.
        side: 1 for the right half of the endplate, -1 for the left one.
    """
    lateral = rng.random() < 0.7
    a, b = side * float(rng.uniform(0.38, 0.6) if lateral else rng.uniform(0.0, 0.25)), float(rng.uniform(-0.5, 0.25))
    depth = float(rng.uniform(0.14, 0.25) if lateral else rng.uniform(0.08, 0.13)) * size.height
    radii = rng.uniform(0.2, 0.36, 2) * [size.width / 2, size.depth / 2] + 1.0

    def relief(u: Array, v: Array) -> Array:
        distance = np.hypot((u - a) * size.width / 2 / radii[0], (v - b) * size.depth / 2 / radii[1])
        return (depth * np.clip(1 - distance**4, 0, 1)).astype(np.float32)

    return relief


def sum_reliefs(reliefs: list[Relief]) -> Relief:
    """Sum of reliefs."""

    def relief(u: Array, v: Array) -> Array:
        return np.asarray(sum((r(u, v) for r in reliefs), np.float32(0)))

    return relief


def intact_heights(height: float, concavity: float) -> dict[str, float]:
    """Height in mm of an intact body by zone; both endplates are concave by ``concavity`` mm."""
    return {n: height - 2 * concavity * (1 - v * v) ** 1.5 for n, v in ZONES.items()}


@dataclass(frozen=True)
class Collapse:
    """A fracture modelled in the geometry of the vertebra, so that the spine above sinks and tilts.

    Attributes:
        shape: "wedge", "biconcave" or "crush".
        loss: relative loss of height in the zone of the shape (``genant.SHAPES``).
        upper_fraction: fraction of the loss at the upper endplate.
        pattern: loss of height in mm at (u, v), both endplates together.
        density: "impaction", "sclerosis", "lucency" or "none".
        hu_change: change of density in HU.
        bulge: factor of width and depth.
    """

    shape: str
    loss: float
    upper_fraction: float
    pattern: Relief
    density: str
    hu_change: float
    bulge: float

    @property
    def grade(self) -> int:
        """Genant grade of the loss."""
        return grade_of(self.loss)

    def endplate(self, upper: bool) -> Relief:
        """Relief of one endplate."""
        fraction = self.upper_fraction if upper else 1 - self.upper_fraction
        return lambda u, v: (fraction * self.pattern(u, v)).astype(np.float32)

    def neighbour_settling(self, upper: bool, depth: float) -> tuple[float, float]:
        """Subsidence in mm and tilt in degrees of the neighbour on one endplate.

        Args:
            upper: the neighbour above; False for the one below.
            depth: anterior-posterior extent of the body in mm.
        """
        front, back = (float(self.endplate(upper)(np.zeros(1), np.full(1, v))[0]) for v in (RIM, -RIM))
        return (front + back) / 2, float(np.degrees(np.arctan2(front - back, RIM * depth)))

    def losses(self, height: float, concavity: float) -> dict[str, float]:
        """Relative loss of height by zone and on average, by construction."""
        intact = intact_heights(height, concavity)
        lost = {n: float(self.pattern(np.zeros(1), np.full(1, v))[0]) for n, v in ZONES.items()}
        return {**{n: lost[n] / intact[n] for n in ZONES}, "mean": sum(lost.values()) / sum(intact.values())}


def sample_collapse(rng: np.random.Generator, shape: str, loss: float, size: VertebraSize, concavity: float) -> Collapse:
    """Sample a collapse.

    Args:
        rng: random number generator.
        shape: "wedge", "biconcave" or "crush".
        loss: relative loss of height in the zone of the shape.
        size: sizes of the intact vertebra.
        concavity: concavity of both endplates of the intact vertebra in mm.
    """
    exponent, floor = float(rng.uniform(0.8, 2.2)), float(rng.uniform(0.03, 0.22))
    centre, width = float(rng.uniform(-0.12, 0.12)), float(rng.uniform(0.45, 0.7))
    slope = rng.uniform(-0.12, 0.12, 2)
    roughness = uneven_surface(rng, 0.07)

    def relative_loss(u: Array, v: Array) -> Array:
        if shape == "wedge":
            value = floor + np.clip((v + 1) / 2, 0, 1.1) ** exponent
        elif shape == "biconcave":
            value = 0.5 * floor + np.exp(-(((v - centre) / width) ** 2) - (np.abs(u) / 1.1) ** 4)
        else:
            value = 1 + slope[0] * v + 0 * u
        return np.asarray(np.clip(value + slope[1] * u + roughness(u, v), 0, None))

    intact = intact_heights(size.height, concavity)
    zones = [SHAPES[shape]] if SHAPES[shape] in ZONES else list(ZONES)
    target = float(np.mean([loss * intact[n] for n in zones]))
    factor = target / float(np.mean([relative_loss(np.zeros(1), np.full(1, ZONES[n]))[0] for n in zones]))

    def pattern(u: Array, v: Array) -> Array:
        return np.minimum(factor * relative_loss(u, v), MAX_LOSS * size.height).astype(np.float32)

    density = str(rng.choice(["impaction", "sclerosis", "lucency", "none"], p=[0.3, 0.25, 0.15, 0.3]))
    hu_change = {
        "impaction": rng.uniform(20, 160),
        "sclerosis": rng.uniform(60, 260),
        "lucency": -rng.uniform(80, 240),
        "none": 0.0,
    }
    upper_fraction = float(rng.uniform(0.45, 0.95) if shape == "wedge" else rng.uniform(0.3, 0.8))
    bulge = 1 + float(rng.uniform(0.0, 0.3)) * loss
    return Collapse(shape, loss, upper_fraction, pattern, density, float(hu_change[density]), bulge)
