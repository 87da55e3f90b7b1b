# SPDX-License-Identifier: Apache-2.0
"""A data set of phantoms with simulated fractures: NIfTI volumes, datalist, table of vertebrae."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from tqdm import tqdm

from ..errors import InputError
from ..files import keep_settings, read_table, write_table
from .anatomy import REGIONS
from .datalist import split_by_patient, write_datalist
from .fractured_scan import COLUMNS, add_fractures, save_image, vertebra_rows
from .phantom import ScanStyle, SpineScan, make_phantom

ORIENTATIONS = ("RAS", "LAS", "LPS", "PIR")  # as scanners and public sets store CT; PIR is that of VerSe


def fractured_phantom(
    seed: int,
    region: str,
    fractures: int,
    grades: Sequence[int] = (1, 2, 3),
    style: ScanStyle | None = None,
) -> SpineScan:
    """Make a phantom with ``fractures`` simulated fractures (fewer if fewer whole vertebrae are seen).

    Args:
        seed: the same seed gives the same scan.
        region: region of the spine.
        fractures: number of fractured vertebrae; 0 gives a healthy scan.
        grades: Genant grades to draw from.
        style: how the scan looks; drawn when None.
    """
    scan = make_phantom(seed, region, style)
    return add_fractures(scan, np.random.default_rng([seed, 7]), fractures, grades=grades)


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

    Returns:
        Path of the datalist.
    """
    names = [regions] if isinstance(regions, str) else [str(r) for r in regions]
    unknown = [r for r in names if r not in REGIONS]
    if unknown:
        raise InputError(f"regions={unknown[0]!r}: give some of {', '.join(REGIONS)}")
    drawn = [grades] if isinstance(grades, int) else list(grades)
    if not drawn or any(g not in (1, 2, 3) for g in drawn):
        raise InputError(f"grades={grades!r}: give some of 1, 2, 3")
    if cases < 3:
        raise InputError(f"cases={cases}: give at least 3, one for each of training, validation and testing")
    if not 0 <= healthy < 1:
        raise InputError(f"healthy={healthy}: give a share of at least 0 and below 1")
    # More cases may be added later; the rest decides what a case looks like.
    size_mm = [spacing] if isinstance(spacing, (int, float)) else spacing and list(spacing)
    settings = {"seed": seed, "regions": names, "grades": drawn, "healthy": healthy, "spacing": size_mm}
    keep_settings(out, settings)
    root = Path(out)
    for folder in ("images", "labels", "vertebrae"):
        (root / folder).mkdir(parents=True, exist_ok=True)

    rows: list[dict] = []
    entries: list[dict[str, str]] = []
    for k in tqdm(range(cases), desc="phantoms", unit="scan"):
        case = f"phantom-{seed + k:04d}"
        files = {
            "image": f"images/{case}.nii.gz",
            "label": f"labels/{case}.nii.gz",
            "vertebrae": f"vertebrae/{case}.nii.gz",
        }
        entries.append({**files, "patient": case})
        part = root / "vertebrae" / f"{case}.csv"
        if part.exists():
            rows.extend(read_table(part))
            continue
        rng = np.random.default_rng([seed + k, 11])
        region = names[k % len(names)]
        style = ScanStyle.random(rng, region)
        if spacing is not None:
            size = [float(spacing)] * 3 if isinstance(spacing, (int, float)) else [float(s) for s in spacing]
            style = replace(style, spacing=(size[0], size[1], size[2]))
        # Healthy scans are spread evenly, so that every part of a small set has its share.
        fractures = 0 if int((k + 1) * healthy) > int(k * healthy) else int(rng.integers(1, 4))
        scan = fractured_phantom(seed + k, region, fractures, drawn, style)
        codes = str(rng.choice(ORIENTATIONS))
        broken = [f["label"] for f in scan.fractures]
        save_image(_oriented(scan.image, scan.affine, codes), root / "images" / f"{case}.nii.gz")
        save_image(_oriented(scan.labels, scan.affine, codes), root / "vertebrae" / f"{case}.nii.gz")
        mask = np.isin(scan.labels, broken).astype(np.uint8)
        save_image(_oriented(mask, scan.affine, codes), root / "labels" / f"{case}.nii.gz")
        case_rows = vertebra_rows(case, scan)
        write_table(part, case_rows, COLUMNS)
        rows.extend(case_rows)

    write_table(root / "vertebrae.csv", rows, COLUMNS)
    fractured = [any(str(r["grade"]) != "0" for r in rows if r["case"] == e["patient"]) for e in entries]
    split = split_by_patient([e["patient"] for e in entries], fractured, seed)
    path = root / "datalist.json"
    write_datalist(
        path,
        {s: [entries[i] for i in indices] for s, indices in split.items()},
        "Procedural spine CT phantoms with simulated fractures; no patient data.",
    )
    return str(path)
