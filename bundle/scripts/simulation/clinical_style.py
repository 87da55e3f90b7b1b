# SPDX-License-Identifier: Apache-2.0
"""Style of phantoms with what real scans show beside fractures: lesions, other bones, vessels, gas, thick slices, low dose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .negatives import Negatives
from .style import ScanStyle, Variation, wide_style

THIN_SLICE_MM = 1.7  # thick slices are the mean of slices of about this thickness


def _thick_slices(rng: np.random.Generator, style: ScanStyle) -> ScanStyle:
    """Style with sagittal slices of 3 to 5 mm or axial slices of 2.5 to 5 mm."""
    in_plane = float(rng.uniform(0.8, 1.4))
    if rng.random() < 0.5:
        thick = float(rng.choice([3.0, 3.3, 4.0, 4.4, 5.0]))
        spacing = (thick, in_plane, in_plane)
    else:
        thick = float(rng.choice([2.5, 3.0, 3.27, 4.0, 5.0]))
        spacing = (in_plane, in_plane, thick)
    return replace(style, spacing=spacing, slab=round(thick / THIN_SLICE_MM) | 1)  # odd: labels are those of the middle


def sample_negatives(rng: np.random.Generator) -> Negatives:
    """Sample negatives, each with its own probability and strength, independent of the others."""

    def strength(probability: float, low: float, high: float) -> float:
        value = float(rng.uniform(low, high))
        return value if rng.random() < probability else 0.0

    def number(probability: float, low: int, high: int) -> int:
        value = int(rng.integers(low, high + 1))
        return value if rng.random() < probability else 0

    return Negatives(
        facet_sclerosis=strength(0.4, 0.2, 1.0),
        facet_gas=strength(0.2, 0.1, 0.6),
        bridges=strength(0.25, 0.2, 1.0),
        endplate_sclerosis=strength(0.3, 0.1, 0.6),
        schmorl_row=number(0.25, 2, 4),
        scheuermann=number(0.2, 3, 5),
        limbus=number(0.15, 1, 2),
        haemangiomas=number(0.2, 1, 2),
        bone_islands=number(0.25, 1, 4),
        aorta=strength(0.4, 0.05, 0.6),
        enhancement=strength(0.4, 60.0, 350.0),
        rib_joints=strength(0.7, 0.3, 1.0),
        pelvis=bool(rng.random() < 0.7),
        chest_wall=bool(rng.random() < 0.6),
        gas_pockets=number(0.35, 1, 5),
        bowel_contrast=number(0.15, 1, 5),
        table=bool(rng.random() < 0.4),
        starvation=strength(0.2, 0.4, 1.5),
    )


def clinical_style(rng: np.random.Generator, region: str) -> ScanStyle:
    """Sample a wide style with negatives; slices up to 5 mm, fields of view up to the arms, noise of a low dose.

    Args:
        rng: random number generator.
        region: key of ``anatomy.REGIONS``; "cervical" has a smaller field of view.
    """
    style = wide_style(rng, region)
    negatives = sample_negatives(rng)
    if rng.random() < 0.45:
        style = _thick_slices(rng, style)
    if negatives.starvation:
        style = replace(style, noise=float(np.exp(rng.uniform(np.log(40), np.log(120)))))
    if rng.random() < 0.12:
        # A thin patient in a wide field of view; coarser pixels, as a wide field has them.
        trunk = float(rng.uniform(75, 110))
        negatives = replace(negatives, trunk=trunk, arms=bool(rng.random() < 0.6))
        width = 2 * trunk + float(rng.uniform(10, 90))
        spacing = tuple(max(s, 1.3) for s in style.spacing)
        style = replace(style, field_of_view=(width, *style.field_of_view[1:]), spacing=spacing)  # type: ignore[arg-type]
    variation = style.variation or Variation()
    curve = variation.scoliosis
    if rng.random() < 0.2 and region != "cervical":
        # Degenerative and idiopathic curves, whose vertebrae look wedge-shaped in sagittal slices.
        curve = float(rng.choice([-1, 1])) * float(rng.uniform(10, 24))
    return replace(style, variation=replace(variation, scoliosis=curve, negatives=negatives))
