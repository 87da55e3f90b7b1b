# SPDX-License-Identifier: Apache-2.0
"""A data set of phantoms with simulated fractures: NIfTI volumes, datalist, table of vertebrae."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from tqdm import tqdm

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...core.genant import SHAPES
from ...data.datalist import IGNORE_INDEX, write_datalist
from ...data.datasets.conversion import save_image
from ...data.split import split_by_patient
from ...data.vertebra_table import read_vertebra_table, write_vertebra_table
from ..fracture.sampling import add_fractures, scan_rows, whole_vertebrae
from ..phantom.anatomy import REGIONS
from ..phantom.generator import make_phantom
from ..spine_scan import SpineScan
from ..style import ScanStyle, wide_style
from .simulate import FOLDERS, training_label

GENERATOR = 1  # to be raised with every change that makes another scan of the same seed: folders of both are not mixed
STYLES = {"plain": ScanStyle.random, "wide": wide_style}
ORIENTATIONS = ("RAS", "LAS", "LPS", "PIR")  # as scanners and public sets store CT; PIR is that of VerSe


def fractured_phantom(
    seed: int,
    region: str,
    fractures: int,
    grades: Sequence[int] = (1, 2, 3),
    style: ScanStyle | None = None,
    drawn: float = 0.0,
) -> SpineScan:
    """Make a phantom with ``fractures`` simulated fractures (fewer if fewer whole vertebrae are seen).

    Args:
        seed: the same seed gives the same scan.
        region: region of the spine.
        fractures: number of fractured vertebrae; 0 gives a healthy scan.
        grades: Genant grades to draw from.
        style: how the scan looks; drawn when None.
        drawn: share of fractures that are drawn with the spine, which leans and sinks with them; the others are made by
            displacement, which leaves every other vertebra in place. Above 0 only for a style with a ``variation``.
    """
    rng = np.random.default_rng([seed, 7])
    collapses: list[tuple[str, int]] = []
    if drawn:
        count = int(rng.binomial(fractures, drawn))
        collapses = [(str(rng.choice(list(SHAPES))), int(rng.choice(list(grades)))) for _ in range(count)]
    scan = make_phantom(seed, region, style, collapses)
    return add_fractures(scan, rng, fractures, grades=grades, exclude=[f["label"] for f in scan.fractures])


def doubtful(scan: SpineScan, min_grade: int) -> list[int]:
    """Fractured vertebrae that a label should call unknown: cut by the border, or of a grade below ``min_grade``."""
    whole = whole_vertebrae(scan.labels, scan.affine)
    return [f["label"] for f in scan.fractures if f["grade"] < min_grade or f["label"] not in whole]


def _name(seed: int) -> str:
    return f"phantom-{seed:04d}"


def _oriented(array: np.ndarray, affine: np.ndarray, codes: str) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes))))


def phantom(
    out: str,
    cases: int = 24,
    seed: int = 0,
    regions: Sequence[str] | str = tuple(REGIONS),
    grades: Sequence[int] | int = (1, 2, 3),
    healthy: float = 0.25,
    spacing: Sequence[float] | float | None = None,
    style: str = "plain",
    drawn: float = 0.0,
    min_grade: int = 1,
    workers: int = 2,
) -> str:
    """Make a data set of phantom CTs with simulated fractures.

    Writes ``images/``, ``labels/`` (1 = fractured vertebra), ``vertebrae/`` (VerSe labels), ``datalist.json`` (70/10/20 by patient)
    and ``vertebrae.csv`` into the folder. Cases that exist already are kept, so an interrupted run goes on where it stopped.

    Args:
        out: folder to write to.
        cases: number of scans; each is a patient of its own.
        seed: first seed; the same arguments give the same data on every machine.
        regions: spine regions to draw from: cervical, thoracic, thoracolumbar, lumbar.
        grades: Genant grades to draw from.
        healthy: share of scans without a fracture.
        spacing: voxel size in mm, one number or three (R, A, S); drawn per scan when not given.
        style: "plain", or "wide" for old and operated spines, other kernels and fields of view (docs/phantom.md).
        drawn: share of fractures drawn with the spine, which leans and sinks with them, not made by displacement; for "wide".
        min_grade: fractures below this grade become 255, unknown.
        workers: scans made at once.

    Returns:
        Path of the datalist.
    """
    names = [regions] if isinstance(regions, str) else [str(r) for r in regions]
    unknown = [r for r in names if r not in REGIONS]
    if unknown:
        raise InputError(f"regions={unknown[0]!r}: give some of {', '.join(REGIONS)}")
    kinds = [grades] if isinstance(grades, int) else list(grades)
    if not kinds or any(g not in (1, 2, 3) for g in kinds):
        raise InputError(f"grades={grades!r}: give some of 1, 2, 3")
    if cases < 3:
        raise InputError(f"cases={cases}: give at least 3, one for each of training, validation and testing")
    if not 0 <= healthy < 1:
        raise InputError(f"healthy={healthy}: give a share of at least 0 and below 1")
    if style not in STYLES:
        raise InputError(f"style={style!r}: give one of {', '.join(STYLES)}")
    if not 0 <= drawn <= 1 or (drawn and style != "wide"):
        raise InputError(f"drawn={drawn}: give a share from 0 to 1, above 0 only with --style wide")
    if min_grade not in (1, 2, 3):
        raise InputError(f"min_grade={min_grade}: give 1, 2 or 3")
    # More cases may be added later; the rest decides what a case looks like.
    size_mm = [spacing] if isinstance(spacing, (int, float)) else spacing and list(spacing)
    settings = {"seed": seed, "regions": names, "grades": kinds, "healthy": healthy, "spacing": size_mm}
    settings["generator"] = GENERATOR
    settings |= (
        {} if (style, drawn, min_grade) == ("plain", 0, 1) else {"style": style, "drawn": drawn, "min_grade": min_grade}
    )
    ensure_same_settings(out, settings)
    root = Path(out)
    for folder in FOLDERS.values():
        (root / folder).mkdir(parents=True, exist_ok=True)

    entries = [
        {**{key: f"{folder}/{_name(seed + k)}.nii.gz" for key, folder in FOLDERS.items()}, "patient": _name(seed + k)}
        for k in range(cases)
    ]

    def make(k: int) -> list[dict]:
        part = root / "vertebrae" / f"{_name(seed + k)}.csv"
        if part.exists():
            return read_vertebra_table(part)
        rng = np.random.default_rng([seed + k, 11])
        region = names[k % len(names)]
        looks = STYLES[style](rng, region)
        if spacing is not None:
            size = [float(spacing)] * 3 if isinstance(spacing, (int, float)) else [float(s) for s in spacing]
            looks = replace(looks, spacing=(size[0], size[1], size[2]))
        # Healthy scans are spread evenly, so that every part of a small set has its share.
        fractures = 0 if int((k + 1) * healthy) > int(k * healthy) else int(rng.integers(1, 4))
        scan = fractured_phantom(seed + k, region, fractures, kinds, looks, drawn)
        codes = str(rng.choice(ORIENTATIONS))
        mask = training_label(scan, [], [], None)
        mask[np.isin(scan.labels, doubtful(scan, min_grade))] = IGNORE_INDEX
        for key, array in (("image", scan.image), ("vertebrae", scan.labels), ("label", mask)):
            save_image(_oriented(array, scan.affine, codes), root / entries[k][key])
        case_rows = scan_rows(_name(seed + k), scan)
        write_vertebra_table(part, case_rows)
        return case_rows

    rows: list[dict] = []
    with ThreadPoolExecutor(max(int(workers), 1)) as pool:
        for case_rows in tqdm(pool.map(make, range(cases)), total=cases, desc="phantoms", unit="scan"):
            rows.extend(case_rows)

    write_vertebra_table(root / "vertebrae.csv", rows)
    fractured = [any(str(r["grade"]) != "0" for r in rows if r["case"] == e["patient"]) for e in entries]
    split = split_by_patient([e["patient"] for e in entries], fractured, seed)
    path = root / "datalist.json"
    write_datalist(
        path,
        {s: [entries[i] for i in indices] for s, indices in split.items()},
        "Procedural spine CT phantoms with simulated fractures; no patient data.",
    )
    return str(path)
