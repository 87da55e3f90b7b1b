# SPDX-License-Identifier: Apache-2.0
"""A coarse phantom of the lumbar spine with its vertebrae as instances on the working grid, and made-up rows of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scripts.core.vertebrae import LEVELS, spine_order
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from scripts.io.working_grid import WorkingGrid
from scripts.postprocessing.vertebra_record import VertebraRecord
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle

FRACTURED = 3


@dataclass
class Scene:
    """A scan with its vertebrae.

    Attributes:
        scan: voxels.
        grid: working grid of 2 mm.
        instances: number of the vertebra (R, A, S) in a box of the working grid.
        origin: first voxel of the box.
        records: rows; the third vertebra is fractured.
        path: file of the scan.
    """

    scan: Scan
    grid: WorkingGrid
    instances: np.ndarray
    origin: tuple[int, int, int]
    records: list[VertebraRecord]
    path: Path


def make_scene(path: Path, image: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> Scene:
    """Scene of a scan along (R, A, S) with VerSe labels; the sacrum is left out."""
    file = nib.Nifti1Image(image, affine)
    file.header.set_xyzt_units("mm")
    nib.save(file, path)
    header = read_header(str(path), require_volume=False)
    grid = WorkingGrid.plan(header.shape, header.affine, (2.0, 2.0, 2.0))
    # Nearest voxel; both grids begin at the same voxel.
    stored = nib.as_closest_canonical(nib.Nifti1Image(labels, affine))
    data, spacing = np.asarray(stored.dataobj), np.linalg.norm(stored.affine[:3, :3], axis=0)
    sizes = zip(grid.shape, grid.spacing, spacing, data.shape, strict=True)
    index = [np.clip(np.rint(np.arange(n) * g / d).astype(int), 0, m - 1) for n, g, d, m in sizes]
    working = data[np.ix_(*index)]
    records, instances = [], np.zeros(grid.shape, np.uint8)
    for number, label in enumerate([v for v in spine_order(working) if LEVELS[v] != "S1"], start=1):
        instances[working == label] = number
        voxels = np.argwhere(working == label)
        centre = [np.median(voxels[:, 0]), np.quantile(voxels[:, 1], 0.75), np.median(voxels[:, 2])]
        record = VertebraRecord(
            number, label, LEVELS[label], "guess" if number % 2 else "mask", True, 0.06, False, (26.0, 26.0, 27.0), (0.4, 0.5, 0.6),
            0.02, 0.03, 0.04, 0, (0, 0), "", 150.0, 12.0, 40.0, 20.0, tuple((grid.affine @ [*centre, 1.0])[:3]), case="phantom",
        )  # fmt: skip
        if number == FRACTURED:
            record = replace(
                record, fracture_probability=0.91, fractured=True, heights_mm=(18.0, 20.0, 27.0), loss_from_neighbours=0.31,
                loss_from_posterior=0.33, measured_grade=2, measured_grade_range=(1, 2), measured_shape="wedge",
            )  # fmt: skip
        records.append(record)
    box = [range(int(v.min()), int(v.max()) + 1) for v in np.nonzero(instances)] if instances.any() else [range(0)] * 3
    part = instances[tuple(slice(r.start, r.stop) for r in box)]
    return Scene(Scan(header, expect_hu=False), grid, part, tuple(r.start for r in box), records, path)


def lumbar_scene(folder: Path) -> Scene:
    """Scene of a phantom of six vertebrae."""
    style = replace(ScanStyle.random(np.random.default_rng(4), "lumbar"), spacing=(2.0, 1.6, 1.6))
    scan = make_phantom(4, "lumbar", style)
    return make_scene(folder / "phantom.nii.gz", scan.image, scan.labels, scan.affine)
