# SPDX-License-Identifier: Apache-2.0
"""What makes one phantom differ from the next beyond a healthy spine: old age, metal, other kernels, other fields of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Variation:
    """Degeneration, hardware and image chain of one scan. All of these are intact spine: none is labelled a fracture.

    Attributes:
        disc: factor of the height of every disc.
        disc_spread: standard deviation of that factor from disc to disc.
        vacuum: share of discs that hold gas.
        osteophytes: 0 for none, 1 for spurs that bridge most discs.
        schmorl: mean number of Schmorl nodes of an endplate.
        roughness: unevenness of endplates in mm (standard deviation).
        wedging: spread of the natural wedge shape (share of the height, standard deviation).
        shell: factor of the thickness of compact bone.
        streaks: HU of the upright trabeculae that remain in osteoporosis (standard deviation).
        overshoot: strength of the edge enhancement of the reconstruction kernel.
        screws: number of vertebrae with pedicle screws.
        clutter: number of further bones far from the spine.
        tissue: factor and shift in HU of everything that is not bone.
        start: share of the spine that lies below the scan.
        shift: mm by which the spine lies off the middle of the scan, to the right and to the front.
        scoliosis: degrees by which vertebrae lean to the side along a lateral curve, besides what a healthy spine has.
        rotation: degrees by which they turn about the spine's axis for each degree of that lean.
        lying: degrees by which the patient lies leaning to the side and turned on the table.
    """

    disc: float = 1.0
    disc_spread: float = 0.0
    vacuum: float = 0.0
    osteophytes: float = 0.0
    schmorl: float = 0.0
    roughness: float = 0.0
    wedging: float = 0.0
    shell: float = 1.0
    streaks: float = 0.0
    overshoot: float = 0.0
    screws: int = 0
    clutter: int = 0
    tissue: tuple[float, float] = (1.0, 0.0)
    start: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    scoliosis: float = 0.0
    rotation: float = 0.0
    lying: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class ScanStyle:
    """How a scan looks; drawn per case by ``ScanStyle.random``.

    Attributes:
        spacing: voxel size in mm along (R, A, S).
        field_of_view: extent in mm along (R, A, S).
        trabecular: mean HU of cancellous bone.
        cortical: HU of compact bone.
        noise: standard deviation of the noise in HU.
        sharpness: blur of the reconstruction kernel in mm (standard deviation).
        contrast: HU that contrast medium adds to vessels.
        variation: what else differs from a healthy spine; None for nothing.
    """

    spacing: tuple[float, float, float] = (1.5, 1.0, 1.0)
    field_of_view: tuple[float, float, float] = (84.0, 150.0, 200.0)
    trabecular: float = 160.0
    cortical: float = 850.0
    noise: float = 18.0
    sharpness: float = 0.5
    contrast: float = 0.0
    variation: Variation | None = None

    @staticmethod
    def random(rng: np.random.Generator, region: str) -> ScanStyle:
        """Draw a style: sagittal or axial reconstruction, old or young bone, with or without contrast medium."""
        in_plane = float(rng.uniform(0.8, 1.1))
        if rng.random() < 0.6:
            spacing = (float(rng.choice([1.0, 1.5, 2.0, 3.0])), in_plane, in_plane)
        else:
            spacing = (in_plane, in_plane, float(rng.choice([0.8, 1.0, 1.25, 1.5])))
        depth, length = (118.0, 150.0) if region == "cervical" else (150.0, 205.0)
        return ScanStyle(
            spacing=spacing,
            field_of_view=(
                float(rng.uniform(70, 92)),
                depth * rng.uniform(0.93, 1.07),
                length * rng.uniform(0.93, 1.07),
            ),
            trabecular=float(np.clip(rng.normal(155, 45), 70, 260)),
            cortical=float(rng.uniform(650, 1050)),
            noise=float(rng.uniform(8, 32)),
            sharpness=float(rng.uniform(0.3, 0.8)),
            contrast=float(rng.choice([0.0, 110.0, 170.0])),
        )


def _variation(rng: np.random.Generator, tight: bool) -> Variation:
    old = float(rng.beta(1.1, 1.1))  # 0 young, 1 old: degeneration comes together
    return Variation(
        disc=float(rng.uniform(0.95, 1.1) - 0.55 * old * rng.random()),
        disc_spread=0.05 + 0.25 * old,
        vacuum=float(0.35 * old * rng.random()),
        osteophytes=float(old * rng.random()),
        schmorl=float(0.5 * rng.random() ** 2),
        roughness=float(rng.uniform(0.1, 0.3 + 0.5 * old)),
        wedging=float(rng.uniform(0.015, 0.035)),
        shell=float(rng.uniform(0.5, 2.2)),
        streaks=float(rng.uniform(0, 70)) * float(rng.random() < 0.7),
        overshoot=float(rng.uniform(0.2, 1.5)) * float(rng.random() < 0.5),
        screws=int(rng.integers(2, 5)) if rng.random() < 0.06 else 0,
        clutter=0 if tight else int(rng.integers(0, 7)),
        tissue=(float(rng.uniform(0.6, 1.5)), float(rng.uniform(-60, 60))),
        start=float(rng.random()),
        shift=(float(rng.normal(0, 5)), float(rng.normal(0, 4 if tight else 15))),
        scoliosis=float(rng.normal(0, 8)) * float(rng.random() < 0.6),
        rotation=float(rng.uniform(0.2, 1.2)),
        lying=(float(rng.normal(0, 3)), float(rng.normal(0, 5))),
    )


def wide_style(rng: np.random.Generator, region: str) -> ScanStyle:
    """Draw a style from ranges wider than patients show, so that a network meets no surprise in them.

    Args:
        rng: source of randomness.
        region: region of the spine; "cervical" has a smaller field of view.
    """
    tight = bool(rng.random() < 0.45)  # cropped to the spine, as many published scans are
    in_plane = float(rng.uniform(0.8, 1.5))
    thick = float(rng.choice([1.0, 1.5, 2.0, 2.5, 3.0, 3.0, 4.0]))
    spacing = (thick, in_plane, in_plane) if rng.random() < 0.6 else (in_plane, in_plane, min(thick, 2.5))
    small = 0.75 if region == "cervical" else 1.0
    view = (
        (rng.uniform(48, 90), rng.uniform(92, 130) * small, rng.uniform(80, 250))
        if tight
        else (rng.uniform(70, 200), rng.uniform(125, 240) * small, rng.uniform(120, 270))
    )
    return ScanStyle(
        spacing=spacing,
        field_of_view=(float(view[0]), float(view[1]), float(view[2])),
        trabecular=float(rng.uniform(35, 260)),
        cortical=float(rng.uniform(350, 1300)),
        noise=float(np.exp(rng.uniform(np.log(5), np.log(80)))),
        sharpness=float(rng.uniform(0.2, 1.1)),
        contrast=float(rng.choice([0.0, 0.0, 110.0, 170.0, 250.0])),
        variation=_variation(rng, tight),
    )
