# SPDX-License-Identifier: Apache-2.0
"""Files of a scan with one decision per vertebra: masks on its grid, DICOM-SEG, DICOM SR."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import first_line
from ..io import dicom_seg, dicom_sr
from ..io.ct_volume import Scan
from ..io.dicom_series import DicomSeries
from ..io.nifti_writer import open_slice_writer
from ..io.resample import restore
from ..io.scan_header import ScanHeader
from ..io.working_grid import WorkingGrid
from ..postprocessing.measurements import FindingMeasurements
from ..postprocessing.probability_map import Probabilities
from .vertebrae import ScanVertebrae

FRACTURE_LABELS = {0: "background", 1: "fractured vertebra"}
FRACTURE_DESCRIPTION = "1 = fractured vertebra; research use only"
VERTEBRA_DESCRIPTION = "number of the vertebra from the head; research use only"


def _path(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)


def write_vertebra_masks(
    base: Path,
    scan: Scan,
    grid: WorkingGrid,
    found: ScanVertebrae,
    masks: bool = True,
    keep_planes: bool = False,
    case: str | None = None,
) -> tuple[list[dict], dict[int, NDArray[np.uint8]]]:
    """Write ``<base>_vertebrae.nii.gz`` and ``<base>_fracture.nii.gz`` slice by slice, and measure the fractured vertebrae.

    Args:
        base: outputs are named after it.
        scan: voxels in HU.
        grid: working grid.
        found: vertebrae; their volumes become those on the grid of the scan.
        masks: False measures only.
        keep_planes: return the numbers of the vertebrae in every slice, for a DICOM-SEG.
        case: name in the rows, with the folders below the output folder; that of ``base`` by default.

    Returns:
        Rows of findings, one per fractured vertebra, and the slices with vertebrae by index.
    """
    header, measurements, planes = scan.header, FindingMeasurements(scan.header), {}
    i, j, _ = header.shape
    fractured = found.fractured
    probability = np.zeros(256, np.float32)
    levels = np.zeros(256, np.uint8)
    for record in found.records:
        probability[record.vertebra] = np.nan_to_num(record.fracture_probability)
        levels[record.vertebra] = record.label or 0
    counts = np.zeros(256, np.int64)
    names = {0: "background", **{r.vertebra: r.name + (", fractured" if r.fractured else "") for r in found.records}}
    with ExitStack() as stack:
        files = {}
        if masks:
            files["vertebrae"] = stack.enter_context(
                open_slice_writer(_path(base, "_vertebrae.nii.gz"), header, np.uint8, VERTEBRA_DESCRIPTION, names)
            )
            files["fracture"] = stack.enter_context(
                open_slice_writer(_path(base, "_fracture.nii.gz"), header, np.uint8, FRACTURE_DESCRIPTION, FRACTURE_LABELS)
            )
        for k, box, numbers in found.slices(grid):
            if not numbers.any():
                continue
            counts += np.bincount(numbers.ravel(), minlength=256)
            marked = fractured[numbers]
            plane = np.zeros((j, i), np.uint8)
            plane[box] = numbers
            if files:
                files["vertebrae"].write(k, plane)
            if keep_planes:
                planes[k] = plane
            if not marked.any():
                continue
            if files:
                files["fracture"].write(k, fractured[plane])
            of_vertebra = levels[numbers] if levels.any() else None  # no vertebra has a level: none is outside of the given ones
            measurements.add(k, box, marked, probability[numbers], numbers, scan.slab(k, k + 1)[0][box], of_vertebra)
    voxel_ml = float(np.prod(header.spacing)) / 1000
    for record in found.records:
        record.volume_ml = float(counts[record.vertebra] * voxel_ml)
    names = {record.label: record.name for record in found.records if record.label is not None}  # L3? where it is a guess
    return measurements.rows(case or base.name, names), planes


def write_probability(base: Path, header: ScanHeader, predicted: Probabilities, grid: WorkingGrid) -> None:
    """Write the voxel-wise fracture probability as ``<base>_probability.nii.gz`` on the grid of the scan, float32."""
    i, j, _ = header.shape
    with open_slice_writer(_path(base, "_probability.nii.gz"), header, np.float32, "probability; research use only") as file:
        for k, box, values, _ in restore(predicted.volume, predicted.origin, grid):
            full = np.zeros((j, i), np.float32)
            full[box] = values
            file.write(k, full)


def write_dicom(
    base: Path,
    series: DicomSeries,
    planes: dict[int, NDArray[np.uint8]],
    found: ScanVertebrae,
    version: str,
    note: Callable[[str], None],
) -> None:
    """Write ``<base>_seg.dcm`` and ``<base>_sr.dcm``; a series that lacks attributes still has its masks, and a note.

    Raises:
        OSError: when a file cannot be written.
    """
    path = seg = _path(base, "_seg.dcm")
    try:
        dicom_seg.write_vertebra_segmentation(seg, series, planes, found.records, version, note)
        path = _path(base, "_sr.dcm")
        dicom_sr.write_measurement_report(path, series, seg, found.records, version)
    except OSError:
        raise
    except Exception as error:
        note(f"{path.name} was not written: {first_line(error)}")
