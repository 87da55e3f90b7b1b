# SPDX-License-Identifier: Apache-2.0
"""Relief of the endplates of a phantom's vertebra: unevenness, Schmorl nodes, and the collapse of a fracture.

A relief says for a point (u, v) of the body, -1 to 1 from left to right and from back to front, by how many mm the endplate lies
inside the body that ``shapes.vertebral_body`` draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...core.genant import SHAPES, grade_of
from .anatomy import VertebraSize
from .shapes import Array

Relief = Callable[[Array, Array], Array]

ZONES = {
    "anterior": 0.65,
    "middle": 0.0,
    "posterior": -0.65,
}  # v in the middle of the zones of genant.heights_from_columns
RIM = 0.9  # v at which a neighbour rests on an endplate


def bumps(rng: np.random.Generator, height: float, count: int = 5, width: float = 0.45) -> Relief:
    """Uneven surface: ``count`` low hills and dents of about ``height`` mm."""
    centres, signs = rng.uniform(-1, 1, (count, 2)), rng.normal(0, height, count)

    def relief(u: Array, v: Array) -> Array:
        total = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
        for (a, b), h in zip(centres, signs, strict=True):
            total += (h * np.exp(-((u - a) ** 2 + (v - b) ** 2) / width**2)).astype(np.float32)
        return total

    return relief


def schmorl_node(rng: np.random.Generator, size: VertebraSize) -> Relief:
    """A dent of 2 to 6 mm with a rounded border, as discs press into endplates without a fracture."""
    a, b = float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.6, 0.4))
    depth = float(rng.uniform(2.0, min(6.0, 0.22 * size.height)))
    radius = float(rng.uniform(3.0, 6.5))

    def relief(u: Array, v: Array) -> Array:
        distance = np.hypot((u - a) * size.width / 2, (v - b) * size.depth / 2)
        return (depth * np.clip(1 - (distance / radius) ** 2, 0, 1)).astype(np.float32)

    return relief


def together(reliefs: list[Relief]) -> Relief:
    """Sum of reliefs."""

    def relief(u: Array, v: Array) -> Array:
        return np.asarray(sum((r(u, v) for r in reliefs), np.float32(0)))

    return relief


def intact_heights(height: float, dish: float) -> dict[str, float]:
    """Height in mm of an intact body in the three zones; both endplates are concave by ``dish`` mm."""
    return {n: height - 2 * dish * (1 - v * v) ** 1.5 for n, v in ZONES.items()}


@dataclass(frozen=True)
class Collapse:
    """A fracture drawn with the vertebra, so that the spine above leans and sinks with it.

    Attributes:
        shape: "wedge", "biconcave" or "crush".
        loss: share of the height that is lost where Genant measures it for the shape.
        share: part of the loss that the upper endplate takes.
        pattern: loss of height in mm at (u, v).
        density: "impaction", "sclerosis" or "lucency".
        hu: change in HU that comes with it.
        bulge: factor of width and depth.
    """

    shape: str
    loss: float
    share: float
    pattern: Relief
    density: str
    hu: float
    bulge: float

    @property
    def grade(self) -> int:
        """Genant's grade of the loss."""
        return grade_of(self.loss)

    def side(self, upper: bool) -> Relief:
        """Relief of one endplate."""
        part = self.share if upper else 1 - self.share
        return lambda u, v: (part * self.pattern(u, v)).astype(np.float32)

    def seat(self, upper: bool, depth: float) -> tuple[float, float]:
        """How far, in mm, the neighbour sinks that rests on the rim, and by how many degrees it leans towards the loss."""
        front, back = (float(self.side(upper)(np.zeros(1), np.full(1, v))[0]) for v in (RIM, -RIM))
        return (front + back) / 2, float(np.degrees(np.arctan2(front - back, RIM * depth)))

    def losses(self, height: float, dish: float) -> dict[str, float]:
        """Relative loss in the three zones and their mean, by construction."""
        intact = intact_heights(height, dish)
        lost = {n: float(self.pattern(np.zeros(1), np.full(1, v))[0]) for n, v in ZONES.items()}
        return {**{n: lost[n] / intact[n] for n in ZONES}, "mean": sum(lost.values()) / sum(intact.values())}


def draw_collapse(rng: np.random.Generator, shape: str, loss: float, size: VertebraSize, dish: float) -> Collapse:
    """Draw the pattern of a collapse.

    Args:
        rng: source of randomness.
        shape: "wedge", "biconcave" or "crush".
        loss: share of the height to lose where the shape is measured.
        size: sizes of the intact vertebra.
        dish: concavity of its endplates in mm, which lowers the middle of the intact body on both sides.
    """
    steep, floor = float(rng.uniform(0.8, 2.2)), float(rng.uniform(0.03, 0.22))
    centre, spread = float(rng.uniform(-0.12, 0.12)), float(rng.uniform(0.45, 0.7))
    slope = rng.uniform(-0.12, 0.12, 2)
    uneven = bumps(rng, 0.07)

    def raw(u: Array, v: Array) -> Array:
        if shape == "wedge":
            value = floor + np.clip((v + 1) / 2, 0, 1.1) ** steep
        elif shape == "biconcave":
            value = 0.5 * floor + np.exp(-(((v - centre) / spread) ** 2) - (np.abs(u) / 1.1) ** 4)
        else:
            value = 1 + slope[0] * v + 0 * u
        return np.asarray(np.clip(value + slope[1] * u + uneven(u, v), 0, None))

    intact = intact_heights(size.height, dish)
    names = [SHAPES[shape]] if SHAPES[shape] in ZONES else list(ZONES)
    wanted = float(np.mean([loss * intact[n] for n in names]))
    got = float(np.mean([raw(np.zeros(1), np.full(1, ZONES[n]))[0] for n in names]))
    factor = wanted / got

    def pattern(u: Array, v: Array) -> Array:
        # Never through the whole body, whatever the pattern does at its rim.
        return np.minimum(factor * raw(u, v), 0.72 * size.height).astype(np.float32)

    kind = str(rng.choice(["impaction", "sclerosis", "lucency", "none"], p=[0.3, 0.25, 0.15, 0.3]))
    hu = {
        "impaction": rng.uniform(20, 160),
        "sclerosis": rng.uniform(60, 260),
        "lucency": -rng.uniform(80, 240),
        "none": 0.0,
    }
    share = float(rng.uniform(0.45, 0.95) if shape == "wedge" else rng.uniform(0.3, 0.8))
    bulge = 1 + float(rng.uniform(0.0, 0.3)) * loss
    return Collapse(shape, loss, share, pattern, kind, float(hu[kind]), bulge)
