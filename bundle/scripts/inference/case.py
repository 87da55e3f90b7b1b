# SPDX-License-Identifier: Apache-2.0
"""One scan from its file to its mask, findings and pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.files import write_text
from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..io import dicom_seg
from ..io.ct_volume import Scan
from ..io.nifti_writer import open_slice_writer
from ..io.scan_header import ScanHeader, read_header
from ..io.working_grid import WorkingGrid
from ..postprocessing.findings import PostProcessing
from ..postprocessing.fragments import finding_slices
from ..postprocessing.measurements import Measure
from ..postprocessing.probability_map import Probabilities
from ..visualization.finding_views import save_views
from .memory import MIB, MemoryPlan, peak_resident, plan_memory
from .pipeline import Clock, Pipeline
from .predict import SAMPLE_BYTES

LABELS = {0: "background", 1: "fractured vertebra"}
DESCRIPTION = "1 = fractured vertebra; research use only"
Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outputs:
    """What is written of a case.

    Args:
        statistics_only: no mask, no DICOM-SEG, no picture: only the findings.
        save_probabilities: also the probabilities on the grid of the scan, as float32.
        dicom_seg: a DICOM-SEG beside the mask when the scan is a DICOM series and highdicom is installed.
        preview: a picture through each finding.
    """

    statistics_only: bool = False
    save_probabilities: bool = False
    dicom_seg: bool = True
    preview: bool = True


def _vertebrae(path: str | None, header: ScanHeader) -> Scan | None:
    """Mask of vertebra instances on the grid of the scan."""
    if path is None:
        return None
    mask = read_header(path, require_volume=False)
    if mask.shape != header.shape or grid_offset(header.shape, mask.affine, header.affine) > AFFINE_TOLERANCE_MM:
        raise ValueError(f"{path}: lies on another grid than {header.path}; resample it to the grid of its scan")
    return Scan(mask, is_mask=True)


def _write(
    scan: Scan,
    found: Probabilities,
    numbers: NDArray[np.int32],
    grid: WorkingGrid,
    post: PostProcessing,
    base: Path,
    outputs: Outputs,
    vertebrae: Scan | None,
    keep_planes: bool,
) -> tuple[Measure, dict[int, NDArray]]:
    """Write mask and probabilities slice by slice; returns the findings and, where asked for, their planes."""
    measure, planes = Measure(scan.header), {}
    voxel_mm3 = float(np.prod(scan.header.spacing))
    i, j, _ = scan.header.shape
    with ExitStack() as stack:
        mask_file = chance_file = None
        if not outputs.statistics_only:
            path = base.with_name(base.name + "_fracture.nii.gz")
            mask_file = stack.enter_context(open_slice_writer(path, scan.header, np.uint8, DESCRIPTION, LABELS))
        if outputs.save_probabilities:
            path = base.with_name(base.name + "_probability.nii.gz")
            chance_file = stack.enter_context(
                open_slice_writer(path, scan.header, np.float32, "probability; research use only")
            )
        for k, box, chance, marks, mask in finding_slices(found, numbers, grid, post, voxel_mm3):
            if chance_file is not None:
                full = np.zeros((j, i), np.float32)
                full[box] = chance
                chance_file.write(k, full)
            if not mask.any():
                continue
            level = None if vertebrae is None else vertebrae.slab(k, k + 1)[0][box]
            measure.add(k, box, mask, chance, marks, scan.slab(k, k + 1)[0][box], level)
            plane = np.zeros((j, i), np.uint16)
            plane[box] = np.where(mask, marks, 0)
            if mask_file is not None:
                mask_file.write(k, plane > 0)
            if keep_planes:
                planes[k] = plane
    return measure, planes


def segment_case(
    source: str,
    base: Path,
    pipeline: Pipeline,
    post: PostProcessing,
    outputs: Outputs,
    vertebrae: str | None = None,
    expect_hu: bool = True,
    limit: int | None = None,
    process_bytes: int = 0,
    facts: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    say: Say = print,
) -> dict:
    """Segment one scan and write what was found of it.

    Args:
        source: NIfTI, NRRD or MHA file, or folder of a DICOM series.
        base: outputs are named after it: ``<base>_fracture.nii.gz`` and so on.
        pipeline: networks.
        post: what becomes of probabilities.
        outputs: what is written.
        vertebrae: mask of vertebra instances (VerSe labels) on the grid of the scan; gives findings their level.
        expect_hu: whether values that are no HU are refused.
        limit: memory allowed, in bytes.
        process_bytes: peak memory of the process before its first scan.
        facts: kept with the result, such as the digest of the settings.
        progress: called with a phase, what is done, and the total.
        say: takes lines for a person.

    Returns:
        The result, as in ``cases/<name>.json`` beside the masks, which is written last.

    Raises:
        ValueError: one line that names the file, the value and the remedy.
    """
    clock = Clock()
    with clock("read"):
        header = read_header(source, require_volume=expect_hu)
    notes = list(header.notes)
    for note in notes:
        say(f"note: {note}")
    grid = pipeline.plan_header(header)
    window = pipeline.window
    channels = 2 * window.neighbours + 1
    plan = plan_memory(header, grid, window.size, window.batch, process_bytes, limit, SAMPLE_BYTES, channels)
    say(f"{base.name}: {' x '.join(map(str, header.shape))} voxels; {plan.line()}")
    base.parent.mkdir(parents=True, exist_ok=True)
    spool = base.with_name(f".{os.getpid()}.{base.name}.voxels") if plan.spool else None
    with clock("read"):
        scan = Scan(
            header, spool, expect_hu, None if progress is None else lambda n: progress("reading", n, header.shape[2])
        )
    instances = None
    try:
        instances = _vertebrae(vertebrae, header)
        found = pipeline(scan, grid, clock, progress)
        with clock("post-processing"):
            numbers = post(found.volume, grid.spacing)
        wants_seg = outputs.dicom_seg and not outputs.statistics_only and header.series is not None
        if wants_seg and not dicom_seg.available():
            wants_seg = False
            notes.append(f"{base.name}_seg.dcm was not written: {dicom_seg.NOT_INSTALLED}")
            say(f"note: {notes[-1]}")
        with clock("write"):
            measure, planes = _write(scan, found, numbers, grid, post, base, outputs, instances, wants_seg)
        rows = measure.rows(base.name)
        if outputs.preview and not outputs.statistics_only:
            with clock("picture"):
                picture = base.with_name(base.name + "_overlay.png")
                try:
                    save_views(picture, scan, grid, found, numbers, post.threshold, base.name)
                except ImportError as error:  # in an environment of other purpose, such as MONAI Label's
                    notes.append(f"{picture.name} was not drawn: {error}; pip install matplotlib")
                    say(f"note: {notes[-1]}")
        if wants_seg and rows and header.series is not None:
            with clock("DICOM-SEG"):
                path = base.with_name(base.name + "_seg.dcm")
                try:
                    dicom_seg.write_segmentation(
                        path, header.series, planes, rows, str((facts or {}).get("version", ""))
                    )
                except OSError:
                    raise
                except Exception as error:  # a source that lacks tags must not cost the mask
                    notes.append(
                        f"{path.name} was not written: {(str(error).strip().splitlines() or [repr(error)])[0]}"
                    )
                    say(f"note: {notes[-1]}")
    finally:
        scan.close()
        if instances is not None:
            instances.close()
    return _result(base, header, grid, plan, rows, found, clock, {**dict(facts or {}), "notes": notes})


def _result(
    base: Path,
    header: ScanHeader,
    grid: WorkingGrid,
    plan: MemoryPlan,
    rows: list[dict],
    found: Probabilities,
    clock: Clock,
    facts: Mapping[str, object],
) -> dict:
    result = {
        "case": base.name,
        "input": header.path,
        "shape": list(header.shape),
        "spacing_mm": [round(float(s), 4) for s in header.spacing],
        "working_spacing_mm": [round(float(s), 4) for s in grid.spacing],
        "findings": rows,
        "windows": {"first look": found.windows[0], "second look": found.windows[1]},
        "seconds": {k: round(v, 3) for k, v in clock.seconds.items()},
        "memory_mib": {"predicted": round(plan.peak / MIB), "peak of the process": round(peak_resident() / MIB)},
        **dict(facts),
    }
    write_text(base.parent / "cases" / f"{base.name}.json", json.dumps(result, indent=1) + "\n")
    return result
