# SPDX-License-Identifier: Apache-2.0
"""Data set of phantoms with simulated fractures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ...core.genant import SHAPES
from ..clinical_style import clinical_style
from ..fracture.labels import training_label
from ..fracture.sampling import add_fractures, whole_vertebrae
from ..phantom.anatomy import REGIONS
from ..phantom.generator import make_phantom
from ..spine_scan import SpineScan
from ..style import ScanStyle, wide_style
from .writer import GRADES, LabelledScan, SimulationCase, as_list, check_options, is_intact, write_dataset

GENERATOR = 2  # raised with every change of the scan of a seed, so that folders of two generators are not mixed
GENERATORS = {"clinical": 3}  # of styles of which alone the scans have changed since
MAX_FRACTURES = 3  # per scan
STYLES = {"plain": ScanStyle.random, "wide": wide_style, "clinical": clinical_style}
ORIENTATIONS = ("RAS", "LAS", "LPS", "PIR")  # of scanners and public sets; PIR is that of VerSe


def fractured_phantom(
    seed: int,
    region: str,
    fractures: int,
    grades: Sequence[int] = GRADES,
    style: ScanStyle | None = None,
    collapse_fraction: float = 0.0,
) -> SpineScan:
    """Phantom with ``fractures`` simulated fractures, or fewer when the scan contains fewer whole vertebrae.

    Args:
        seed: seed of the scan.
        region: region of the spine.
        fractures: number of fractured vertebrae; 0 for a healthy scan.
        grades: Genant grades to sample from.
        style: appearance of the scan; sampled when None.
        collapse_fraction: expected fraction of the fractures that are modelled in the geometry of the spine, which sinks and tilts
            above them; the others are displacements that change no other vertebra. Above 0 only for a style with a ``variation``.
    """
    rng = np.random.default_rng([seed, 7])
    collapses: list[tuple[str, int]] = []
    if collapse_fraction:
        count = int(rng.binomial(fractures, collapse_fraction))
        collapses = [(str(rng.choice(list(SHAPES))), int(rng.choice(list(grades)))) for _ in range(count)]
    scan = make_phantom(seed, region, style, collapses)
    return add_fractures(scan, rng, fractures, grades=grades, exclude=[f["label"] for f in scan.fractures])


def uncertain_fractures(scan: SpineScan, min_grade: int) -> list[int]:
    """Vertebrae with a simulated fracture that is cut by the border, or of a grade below ``min_grade``."""
    whole = whole_vertebrae(scan.labels, scan.affine)
    return [f["label"] for f in scan.fractures if f["grade"] < min_grade or f["label"] not in whole]


def _phantom_case(
    seed: int,
    region: str,
    intact: bool,
    grades: Sequence[int],
    style: str,
    spacing: Sequence[float],
    collapse_fraction: float,
    min_grade: int,
    noise: float | None,
) -> LabelledScan:
    rng = np.random.default_rng([seed, 11])
    appearance = STYLES[style](rng, region)
    if spacing:
        size = [float(s) for s in spacing] * (3 if len(spacing) == 1 else 1)
        appearance = replace(appearance, spacing=(size[0], size[1], size[2]), slab=1)
    if noise is not None:
        appearance = replace(appearance, noise=float(noise))
    fractures = 0 if intact else int(rng.integers(1, MAX_FRACTURES + 1))
    scan = fractured_phantom(seed, region, fractures, grades, appearance, collapse_fraction)
    orientation = str(rng.choice(ORIENTATIONS))
    label = training_label(scan, ignored=uncertain_fractures(scan, min_grade))
    return LabelledScan(scan, label, orientation=orientation)


def phantom(
    out: str,
    cases: int = 24,
    seed: int = 0,
    regions: Sequence[str] | str = tuple(REGIONS),
    grades: Sequence[int] | int = GRADES,
    healthy: float = 0.25,
    spacing: Sequence[float] | float | None = None,
    style: str = "plain",
    collapse_fraction: float = 0.0,
    min_grade: int = 1,
    noise: float | None = None,
    workers: int = 2,
) -> str:
    """Make a data set of phantom CTs with simulated fractures.

    Writes images/, labels/ (1 = fractured vertebra), vertebrae/ (VerSe labels), vertebrae.csv and datalist.json into OUT, split
    70/10/20 by patient. Finished cases are kept; rerun the same command to resume.

    Args:
        out: folder to write to.
        cases: number of scans, each of a different patient; can be increased later; the split is then another one.
        seed: seed of the first scan; the data are the same on every machine.
        regions: regions of the spine in turn: cervical, thoracic, thoracolumbar, lumbar.
        grades: Genant grades to sample from.
        healthy: fraction of scans without a fracture.
        spacing: voxel size in mm, one number or three (R, A, S); sampled per scan when not given.
        style: appearance: "plain"; "wide" for degeneration, hardware, other kernels and fields of view; "clinical" for these and
            what real scans have beside fractures (docs/phantom.md).
        collapse_fraction: fraction of the fractures that make the spine above sink and tilt; 0 with style "plain".
        min_grade: fractures below this grade have the ignore index 255.
        noise: standard deviation of the noise in HU, 0 for data whose training adds noise; that of the style when not given.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    regions, grades = [str(r) for r in as_list(regions)], as_list(grades)
    spacing = [] if spacing is None else as_list(spacing)
    options = {"regions": regions, "grades": grades, "cases": cases, "healthy": healthy, "style": style}
    options |= {"collapse_fraction": collapse_fraction, "min_grade": min_grade, "spacing": spacing, "noise": noise, "seed": seed}
    check_options(
        options,
        {
            "regions": (bool(regions) and set(regions) <= set(REGIONS), f"among {', '.join(REGIONS)}"),
            "grades": (bool(grades) and set(grades) <= set(GRADES), "among 1, 2, 3"),
            "cases": (cases >= 3, "at least 3, one for each of training, validation and testing"),
            "healthy": (0 <= healthy < 1, "a fraction of at least 0 and below 1"),
            "style": (style in STYLES, f"one of {', '.join(STYLES)}"),
            "collapse_fraction": (
                0 <= collapse_fraction <= 1 and (not collapse_fraction or style != "plain"),
                "a fraction from 0 to 1, above 0 only with --style wide or clinical",
            ),
            "min_grade": (min_grade in GRADES, "1, 2 or 3"),
            "spacing": (len(spacing) in (0, 1, 3) and all(s > 0 for s in spacing), "one number or three, in mm, above 0"),
            "seed": (seed >= 0, "0 or more"),
            "noise": (noise is None or noise >= 0, "0 or more HU"),
        },
    )
    settings = {"seed": seed, "regions": regions, "grades": grades, "healthy": healthy, "spacing": spacing or None}
    settings["generator"] = GENERATORS.get(style, GENERATOR)
    varied = {"style": style, "collapse_fraction": collapse_fraction, "min_grade": min_grade}
    # None, of the defaults, is also that of folders made before these options, which therefore resume.
    settings |= varied if list(varied.values()) != ["plain", 0, 1] else dict.fromkeys(varied)
    settings["noise"] = noise

    def case(k: int) -> SimulationCase:
        intact = is_intact(k, healthy, len(regions))
        name, region = f"phantom-{seed + k:04d}", regions[k % len(regions)]
        make = partial(_phantom_case, seed + k, region, intact, grades, style, spacing, collapse_fraction, min_grade, noise)
        return SimulationCase(name, name, make)

    description = "Procedural spine CT phantoms with simulated fractures; no patient data."
    return write_dataset([case(k) for k in range(cases)], out, settings, description, seed, workers, "phantoms")
