# SPDX-License-Identifier: Apache-2.0
"""Strengths of what real scans show beside vertebrae and in them and what is no fracture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Negatives:
    """Degeneration, lesions, bones, vessels, gas and objects of one scan, all off by default; none is labelled a fracture.

    Attributes:
        facet_sclerosis: fraction of the facet joints that are dense and thickened.
        facet_gas: fraction of the facet joints with gas (vacuum phenomenon).
        bridges: fraction of the discs bridged by flowing ossification in front (DISH).
        endplate_sclerosis: fraction of the endplates with a dense band below them.
        schmorl_row: number of neighbours with large Schmorl nodes.
        scheuermann: number of neighbours with irregular endplates and wedging below that of a fracture.
        limbus: number of vertebrae with a separate corner (limbus vertebra).
        haemangiomas: number of vertebrae with a haemangioma, coarse upright trabeculae in fat.
        bone_islands: number of dense islands in the vertebrae (enostosis).
        aorta: calcified fraction of the wall of an aorta that touches the spine; 0 without that aorta.
        enhancement: contrast medium in HU in that aorta, the azygos vein, the segmental vessels, and kidneys.
        rib_joints: size of the rib heads and of the dense margin of their joints, 0 to 1.
        pelvis: wings of the sacrum and iliac bones beside the lowest lumbar vertebrae.
        chest_wall: ribs beyond their posterior arch, and shoulder blades.
        gas_pockets: number of pockets of gas in bowel or lung beside the bodies.
        bowel_contrast: number of bowel loops with oral contrast medium.
        trunk: half the width of the trunk in mm, beyond which there is air; 0 for wider than the scan.
        arms: arms beside that trunk.
        table: curved table of two layers behind the patient.
        starvation: lateral streaks of a low dose, as a fraction of the noise.
    """

    facet_sclerosis: float = 0.0
    facet_gas: float = 0.0
    bridges: float = 0.0
    endplate_sclerosis: float = 0.0
    schmorl_row: int = 0
    scheuermann: int = 0
    limbus: int = 0
    haemangiomas: int = 0
    bone_islands: int = 0
    aorta: float = 0.0
    enhancement: float = 0.0
    rib_joints: float = 0.0
    pelvis: bool = False
    chest_wall: bool = False
    gas_pockets: int = 0
    bowel_contrast: int = 0
    trunk: float = 0.0
    arms: bool = False
    table: bool = False
    starvation: float = 0.0
