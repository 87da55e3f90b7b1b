# SPDX-License-Identifier: Apache-2.0
"""Surface of the bones of a rendered CT beside that of their masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CORTICES = ("thin", "thick")
# Ranges of a scan. In real CT the cortex has its highest HU 1 to 2 mm below the surface of the masks, and that of arches is wide
# (benchmarks/surface_profile.py).
MARGIN_MM = (0.0, 0.9)
ARCH_CORTEX_MM = (0.1, 1.1)
MUSCLE_FRACTION = 0.8


@dataclass(frozen=True)
class BoneSurface:
    """Surface of the bones of one scan.

    Attributes:
        margin_mm: distance from the surface of the mask to that of the bone in mm.
        arch_cortex_mm: thickness of the cortex behind the bodies in mm, more than that of the bodies.
        muscle: True for muscle on the arches.
    """

    margin_mm: float = 0.0
    arch_cortex_mm: float = 0.0
    muscle: bool = False


THIN = BoneSurface()


def sample_surface(kind: str, seed: int) -> BoneSurface:
    """Surface of a scan.

    Args:
        kind: thin, bone as large as its mask with a thin cortex everywhere; thick, as measured in real CT.
        seed: seed of the scan.

    Raises:
        ValueError: for another kind.
    """
    if kind not in CORTICES:
        raise ValueError(f"cortex={kind!r}: must be one of {', '.join(CORTICES)}")
    if kind == "thin":
        return THIN
    rng = np.random.default_rng([seed, 26])
    return BoneSurface(float(rng.uniform(*MARGIN_MM)), float(rng.uniform(*ARCH_CORTEX_MM)), bool(rng.random() < MUSCLE_FRACTION))
