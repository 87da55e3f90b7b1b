# SPDX-License-Identifier: Apache-2.0
"""Appearance of a simulated scan: acquisition, bone density, degeneration, hardware, field of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .negatives import Negatives


@dataclass(frozen=True)
class Variation:
    """Degeneration, hardware, positioning and image chain of one scan; none of it is labelled as a fracture.

    Attributes:
        disc_height: factor of the height of all discs.
        disc_height_std: standard deviation of that factor between discs.
        vacuum: fraction of discs with gas (vacuum phenomenon).
        osteophytes: 0 for none, 1 for spurs that bridge most discs.
        schmorl: mean number of Schmorl nodes per endplate.
        roughness: unevenness of the endplates in mm (standard deviation).
        wedging: physiological wedge shape, as a fraction of the height (standard deviation).
        cortex: factor of the thickness of cortical bone.
        streaks: vertical trabecular pattern of osteoporosis in HU (standard deviation).
        edge_enhancement: strength of the overshoot of the reconstruction kernel.
        screws: number of vertebrae with pedicle screws.
        distractors: number of other bones and bright organs far from the spine.
        soft_tissue: contrast factor and offset in HU of everything but bone, air and lung.
        start: position of the field of view along the spine, 0 for its lower end, 1 for its upper end.
        shift: offset of the spine from the centre of the scan in mm, to the right and to the front.
        scoliosis: amplitude of the lateral curve in degrees, in addition to that of a healthy spine.
        rotation: axial rotation in degrees per degree of the lateral curve.
        positioning: lateral inclination and axial rotation of the patient on the table in degrees.
        negatives: lesions, other bones, vessels, gas and objects of the clinical style; None without.
    """

    disc_height: float = 1.0
    disc_height_std: float = 0.0
    vacuum: float = 0.0
    osteophytes: float = 0.0
    schmorl: float = 0.0
    roughness: float = 0.0
    wedging: float = 0.0
    cortex: float = 1.0
    streaks: float = 0.0
    edge_enhancement: float = 0.0
    screws: int = 0
    distractors: int = 0
    soft_tissue: tuple[float, float] = (1.0, 0.0)
    start: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    scoliosis: float = 0.0
    rotation: float = 0.0
    positioning: tuple[float, float] = (0.0, 0.0)
    negatives: Negatives | None = None


@dataclass(frozen=True)
class ScanStyle:
    """Acquisition and bone density of one scan.

    Attributes:
        spacing: voxel size in mm along (R, A, S).
        field_of_view: extent in mm along (R, A, S).
        trabecular: mean HU of cancellous bone.
        cortical: HU of cortical bone.
        noise: standard deviation of the noise in HU.
        blur: standard deviation of the reconstruction kernel in mm.
        contrast: enhancement of vessels by contrast medium in HU.
        variation: degeneration, hardware and image chain; None for a healthy spine.
        slab: number of thin slices whose mean is one slice along the coarsest axis, so that thick slices have partial volume.
    """

    spacing: tuple[float, float, float] = (1.5, 1.0, 1.0)
    field_of_view: tuple[float, float, float] = (84.0, 150.0, 200.0)
    trabecular: float = 160.0
    cortical: float = 850.0
    noise: float = 18.0
    blur: float = 0.5
    contrast: float = 0.0
    variation: Variation | None = None
    slab: int = 1

    @staticmethod
    def random(rng: np.random.Generator, region: str) -> ScanStyle:
        """Sample a healthy spine in a sagittal or axial reconstruction, with or without contrast medium.

        Args:
            rng: random number generator.
            region: key of ``anatomy.REGIONS``; "cervical" has a smaller field of view.
        """
        in_plane = float(rng.uniform(0.8, 1.1))
        if rng.random() < 0.6:
            spacing = (float(rng.choice([1.0, 1.5, 2.0, 3.0])), in_plane, in_plane)
        else:
            spacing = (in_plane, in_plane, float(rng.choice([0.8, 1.0, 1.25, 1.5])))
        depth, length = (118.0, 150.0) if region == "cervical" else (150.0, 205.0)
        return ScanStyle(
            spacing=spacing,
            field_of_view=(float(rng.uniform(70, 92)), depth * rng.uniform(0.93, 1.07), length * rng.uniform(0.93, 1.07)),
            trabecular=float(np.clip(rng.normal(155, 45), 70, 260)),
            cortical=float(rng.uniform(650, 1050)),
            noise=float(rng.uniform(8, 32)),
            blur=float(rng.uniform(0.3, 0.8)),
            contrast=float(rng.choice([0.0, 110.0, 170.0])),
        )


def _sample_variation(rng: np.random.Generator, cropped: bool) -> Variation:
    age = float(rng.beta(1.1, 1.1))  # 0 young, 1 old: signs of degeneration are correlated
    return Variation(
        disc_height=float(rng.uniform(0.95, 1.1) - 0.55 * age * rng.random()),
        disc_height_std=0.05 + 0.25 * age,
        vacuum=float(0.35 * age * rng.random()),
        osteophytes=float(age * rng.random()),
        schmorl=float(0.5 * rng.random() ** 2),
        roughness=float(rng.uniform(0.1, 0.3 + 0.5 * age)),
        wedging=float(rng.uniform(0.015, 0.035)),
        cortex=float(rng.uniform(0.5, 2.2)),
        streaks=float(rng.uniform(0, 70)) * float(rng.random() < 0.7),
        edge_enhancement=float(rng.uniform(0.2, 1.5)) * float(rng.random() < 0.5),
        screws=int(rng.integers(2, 5)) if rng.random() < 0.06 else 0,
        distractors=0 if cropped else int(rng.integers(0, 7)),
        soft_tissue=(float(rng.uniform(0.6, 1.5)), float(rng.uniform(-60, 60))),
        start=float(rng.random()),
        shift=(float(rng.normal(0, 5)), float(rng.normal(0, 4 if cropped else 15))),
        scoliosis=float(rng.normal(0, 8)) * float(rng.random() < 0.6),
        rotation=float(rng.uniform(0.2, 1.2)),
        positioning=(float(rng.normal(0, 3)), float(rng.normal(0, 5))),
    )


def wide_style(rng: np.random.Generator, region: str) -> ScanStyle:
    """Sample a style from ranges that contain those of patients (domain randomisation).

    Args:
        rng: random number generator.
        region: key of ``anatomy.REGIONS``; "cervical" has a smaller field of view.
    """
    cropped = bool(rng.random() < 0.45)  # to the spine, as in many published scans
    in_plane = float(rng.uniform(0.8, 1.5))
    thick = float(rng.choice([1.0, 1.5, 2.0, 2.5, 3.0, 3.0, 4.0]))
    spacing = (thick, in_plane, in_plane) if rng.random() < 0.6 else (in_plane, in_plane, min(thick, 2.5))
    scale = 0.75 if region == "cervical" else 1.0
    field_of_view = (
        (rng.uniform(48, 90), rng.uniform(92, 130) * scale, rng.uniform(80, 250))
        if cropped
        else (rng.uniform(70, 200), rng.uniform(125, 240) * scale, rng.uniform(120, 270))
    )
    return ScanStyle(
        spacing=spacing,
        field_of_view=(float(field_of_view[0]), float(field_of_view[1]), float(field_of_view[2])),
        trabecular=float(rng.uniform(35, 260)),
        cortical=float(rng.uniform(350, 1300)),
        noise=float(np.exp(rng.uniform(np.log(5), np.log(80)))),
        blur=float(rng.uniform(0.2, 1.1)),
        contrast=float(rng.choice([0.0, 0.0, 110.0, 170.0, 250.0])),
        variation=_sample_variation(rng, cropped),
    )
