# SPDX-License-Identifier: Apache-2.0
"""Negatives of the vertebrae of one phantom: which vertebrae have them, and the shapes that come with them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..negatives import Negatives
from .anatomy import VertebraSize
from .endplates import Relief, large_schmorl_node, sum_reliefs, uneven_surface
from .vertebra import facet_tip

MIN_LORDOSIS = -0.085  # of a Scheuermann vertebra with all else: about 10 % less height at the front than at the back
SCHEUERMANN_LEVELS = ("T5", "T6", "T7", "T8", "T9", "T10", "T11", "T12", "L1", "L2")
SIDES = (1.0, -1.0)
# Wings of the sacrum on the right, in mm in the frame of S1.
SACRAL_WING = (
    ((16.0, -4.0, 4.0), (48.0, -14.0, -4.0), (10.0, 16.0), (0.8, 1.0, 1.0)),
    ((14.0, -14.0, -18.0), (46.0, -22.0, -20.0), (11.0, 14.0), (0.8, 1.0, 1.2)),
    ((10.0, -27.0, -42.0), (30.0, -32.0, -40.0), (8.0, 7.0), (1.0, 0.8, 1.3)),
)


def generator_of(seed: int, name: str) -> np.random.Generator:
    """Random number generator of one negative, so that none depends on another one."""
    return np.random.default_rng([seed, 31, zlib.crc32(name.encode())])


@dataclass(frozen=True)
class VertebralNegatives:
    """Negatives by vertebra.

    Attributes:
        seed: seed of the scan.
        scheuermann: levels with irregular endplates and mild wedging.
        schmorl: levels with large Schmorl nodes.
        limbus: levels with a separate corner.
        haemangiomas: levels with a haemangioma.
        islands: level of every bone island.
        bridged: (lower, upper) levels of bridged discs.
        dense_facets: (lower level, side) of sclerotic facet joints.
        gas_facets: (lower level, side) of facet joints with gas.
        dense_endplates: (level, 1 for the upper and -1 for the lower endplate) with a dense band.
        wings: whether the sacrum has wings.
    """

    seed: int
    scheuermann: frozenset[str]
    schmorl: frozenset[str]
    limbus: frozenset[str]
    haemangiomas: frozenset[str]
    islands: tuple[str, ...]
    bridged: frozenset[tuple[str, str]]
    dense_facets: frozenset[tuple[str, float]]
    gas_facets: frozenset[tuple[str, float]]
    dense_endplates: frozenset[tuple[str, float]]
    wings: bool

    @staticmethod
    def assign(seed: int, negatives: Negatives, levels: Sequence[str], fractured: Collection[str]) -> VertebralNegatives:
        """Distribute negatives over the vertebrae in view.

        Args:
            seed: seed of the scan.
            negatives: strengths.
            levels: levels in view, lowest first.
            fractured: levels with a fracture, whose height no negative changes.
        """
        intact = [v for v in levels if v not in fractured and v != "S1"]

        def row(name: str, candidates: Sequence[str], count: int) -> frozenset[str]:
            start = int(generator_of(seed, name).integers(0, max(len(candidates) - count, 0) + 1))
            return frozenset(candidates[start : start + count])

        def some(name: str, count: int) -> frozenset[str]:
            return frozenset(str(v) for v in generator_of(seed, name).permutation(intact)[:count])

        def share(name: str, candidates: list, fraction: float) -> frozenset:
            drawn = generator_of(seed, name).random(len(candidates)) < fraction
            return frozenset(c for c, chosen in zip(candidates, drawn, strict=True) if chosen)

        joints = [(v, side) for v in levels for side in SIDES if v != "S1"]
        # Bridges reach the rims of intact bodies.
        discs = [(a, b) for a, b in itertools.pairwise(levels) if a in intact and b in intact]
        island_rng = generator_of(seed, "islands")
        islands = tuple(str(island_rng.choice(intact)) for _ in range(negatives.bone_islands if intact else 0))
        return VertebralNegatives(
            seed,
            row("scheuermann", [v for v in intact if v in SCHEUERMANN_LEVELS], negatives.scheuermann),
            row("schmorl", intact, negatives.schmorl_row),
            some("limbus", negatives.limbus),
            some("haemangioma", negatives.haemangiomas),
            islands,
            share("bridges", discs, negatives.bridges),
            share("facet sclerosis", joints, negatives.facet_sclerosis),
            share("facet gas", joints, negatives.facet_gas),
            share("endplate sclerosis", [(v, s) for v in intact for s in SIDES], negatives.endplate_sclerosis),
            negatives.pelvis,
        )

    def deform(self, level: str, shape: dict, size: VertebraSize) -> list[tuple]:
        """Change the arguments of ``shapes.vertebral_body`` in place.

        Returns:
            Capsules (start, end, radius, flatten) of bone that is added to the vertebra.
        """
        reliefs: dict[bool, list[Relief]] = {True: [], False: []}
        if level in self.scheuermann:
            rng = generator_of(self.seed, f"scheuermann {level}")
            shape["concavity"] *= 0.5  # flat endplates
            shape["lordosis"] = max(shape["lordosis"] - float(rng.uniform(0.02, 0.05)), MIN_LORDOSIS)
            for upper in reliefs:
                reliefs[upper].append(uneven_surface(rng, 0.45, count=9, width=0.28))
        if level in self.schmorl:
            rng = generator_of(self.seed, f"schmorl {level}")
            side = float(rng.choice(SIDES))
            for upper in (True, False):
                if rng.random() < 0.65:
                    # Opposite nodes are on different sides, as one above the other halves the height between them.
                    reliefs[upper].append(large_schmorl_node(rng, size, side if upper else -side))
        before = shape.get("relief")
        shape["relief"] = tuple(
            sum_reliefs([*([] if before is None else [before[k]]), *reliefs[upper]]) for k, upper in enumerate((True, False))
        )
        spurs = [*self._bridges(level, size), *self._thick_facets(level, size)]
        if level == "S1" and self.wings:
            for (x0, *start), (x1, *end), radius, flatten in SACRAL_WING:
                spurs += [((s * x0, *start), (s * x1, *end), radius, flatten) for s in SIDES]
        return spurs

    def _bridges(self, level: str, size: VertebraSize) -> list[tuple]:
        """Halves of the bridges to the neighbours, and the layer that joins them in front of the body."""
        spurs: list[tuple] = []
        for pair in sorted(p for p in self.bridged if level in p):
            rng, sign = generator_of(self.seed, f"bridge {pair[0]}"), 1.0 if level == pair[0] else -1.0
            # Flowing ossification is mostly at the front and on the right.
            middle, spread = rng.uniform(55, 110), rng.uniform(18, 32)
            bulge, radius, flatten = rng.uniform(1.04, 1.25), rng.uniform(1.8, 3.6), rng.uniform(1.4, 3.0)
            for angle in np.radians([middle - spread, middle, middle + spread]):
                rim = np.array([np.cos(angle) * size.width, np.sin(angle) * size.depth]) / 2
                start = (*(0.93 * rim), sign * (size.height / 2 - 4.0))
                end = (*(bulge * rim), sign * (size.height / 2 + 0.6 * size.disc))
                spurs.append((start, end, (radius, 0.9 * radius), (flatten, 1.0, 1.0)))
            wall = 0.97 * size.depth / 2
            spurs.append(((0.0, wall, 0.0), (0.0, wall, sign * size.height / 2), (1.2, radius), (2.5, 1.0, 1.0)))
        return spurs

    def _thick_facets(self, level: str, size: VertebraSize) -> list[tuple]:
        spurs: list[tuple] = []
        for side in SIDES:
            if (level, side) in self.dense_facets:
                rng = generator_of(self.seed, f"thick facet {level} {side}")
                x, y, z = facet_tip(level, size)
                radius = float(rng.uniform(3.0, 5.5)) * (0.7 if level[0] != "L" else 1.0)
                spurs.append(((side * (x + 1), y, z - 5), (side * (x + 2), y + 1, z), (radius, radius), (1.0, 1.0, 1.0)))
        return spurs
