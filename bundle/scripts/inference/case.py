# SPDX-License-Identifier: Apache-2.0
"""One scan from its file to its mask, findings and overlays."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.config_values import require_values
from ..core.errors import first_line
from ..core.files import write_text
from ..io import dicom_seg
from ..io.ct_volume import Scan
from ..io.geometry_rules import DEFAULT_RULES, GeometryRules
from ..io.nifti_writer import open_slice_writer
from ..io.scan_header import read_header
from ..io.working_grid import WorkingGrid
from ..postprocessing.fragments import finding_slices
from ..postprocessing.measurements import OUTSIDE, FindingMeasurements
from ..postprocessing.probability_map import Probabilities
from ..visualization.finding_views import save_views
from ..visualization.vertebra_views import save_vertebra_views
from .concurrency import MemoryBudget
from .earlier_files import record_path, refuse_others, remove_earlier
from .given_vertebrae import mask_bytes, read_given_vertebrae
from .joined_folders import input_hash
from .memory import MIB, MemoryPlan, peak_resident, plan_memory
from .pipeline import Pipeline
from .predict import SAMPLE_BYTES
from .progress import PhaseTimer, Progress
from .vertebra_files import write_dicom, write_probability, write_vertebra_masks
from .vertebrae import ScanVertebrae, find_scan_vertebrae

LABELS = {0: "background", 1: "fractured vertebra"}
NOT_CHECKED = "check_hu is false: values that are no HU are not refused"
DESCRIPTION = "1 = fractured vertebra; research use only"
Log = Callable[[str], None]
DRAWING = threading.Lock()  # Matplotlib draws in one thread at a time


@dataclass(frozen=True)
class Outputs:
    """Files that are written for a scan.

    Args:
        statistics_only: no mask, no DICOM-SEG, no overlay: only the findings.
        save_probabilities: also the probabilities on the grid of the scan, as float32.
        dicom_seg: a DICOM-SEG next to the mask when the scan is a DICOM series and highdicom is installed.
        preview: an overlay with slices through each finding.
    """

    statistics_only: bool = False
    save_probabilities: bool = False
    dicom_seg: bool = True
    preview: bool = True

    def __post_init__(self) -> None:
        require_values(vars(self))

    def endings(self, by_vertebra: bool, dicom: bool) -> list[str]:
        """Endings of the masks and DICOM files of a scan.

        Args:
            by_vertebra: one decision per vertebra.
            dicom: the scan is a DICOM series, and highdicom is installed.
        """
        masks, pair = not self.statistics_only, 2 if by_vertebra else 1
        found = ["_fracture.nii.gz", "_vertebrae.nii.gz"][:pair] if masks else []
        found += ["_probability.nii.gz"] if self.save_probabilities else []
        return found + (["_seg.dcm", "_sr.dcm"][:pair] if masks and dicom and self.dicom_seg else [])


@dataclass
class _Case:
    """Scan with its probabilities and findings, while its files are written."""

    base: Path
    scan: Scan
    grid: WorkingGrid
    predicted: Probabilities
    vertebrae: Scan | None
    pipeline: Pipeline
    outputs: Outputs
    timer: PhaseTimer
    version: str
    name: str  # in the tables: with the folders below the output folder
    note: Log

    def path(self, ending: str) -> Path:
        return self.base.with_name(self.base.name + ending)


def _write_slices(case: _Case, numbers: NDArray[np.int32], keep_planes: bool) -> tuple[FindingMeasurements, dict[int, NDArray]]:
    """Write mask and probabilities slice by slice; returns the measurements and, for a DICOM-SEG, the slices with findings."""
    scan, outputs, measurements, planes = case.scan, case.outputs, FindingMeasurements(case.scan.header), {}
    voxel_mm3 = float(np.prod(scan.header.spacing))
    i, j, _ = scan.header.shape
    with ExitStack() as stack:
        mask_file = probability_file = None
        if not outputs.statistics_only:
            mask_file = stack.enter_context(
                open_slice_writer(case.path("_fracture.nii.gz"), scan.header, np.uint8, DESCRIPTION, LABELS)
            )
        if outputs.save_probabilities:
            probability_file = stack.enter_context(
                open_slice_writer(case.path("_probability.nii.gz"), scan.header, np.float32, "probability; research use only")
            )
        slices = finding_slices(case.predicted, numbers, case.grid, case.pipeline.post, voxel_mm3)
        for k, box, probability, found, mask in slices:
            if probability_file is not None:
                full = np.zeros((j, i), np.float32)
                full[box] = probability
                probability_file.write(k, full)
            if not mask.any():
                continue
            levels = None if case.vertebrae is None else case.vertebrae.slab(k, k + 1)[0][box]
            measurements.add(k, box, mask, probability, found, scan.slab(k, k + 1)[0][box], levels)
            plane = np.zeros((j, i), np.uint16)
            plane[box] = np.where(mask, found, 0)
            if mask_file is not None:
                mask_file.write(k, plane > 0)
            if keep_planes:
                planes[k] = plane
    return measurements, planes


def segment_case(
    source: str,
    base: Path,
    pipeline: Pipeline,
    outputs: Outputs,
    vertebrae: str | None = None,
    expect_hu: bool = True,
    limit: int | None = None,
    process_bytes: int = 0,
    facts: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    log: Log = print,
    rules: GeometryRules = DEFAULT_RULES,
    parts: Sequence[str] = (),
    remarks: Sequence[str] = (),
    budget: MemoryBudget | None = None,
) -> dict:
    """Segment one scan and write its files.

    Args:
        source: NIfTI, NRRD or MHA file, or folder of a DICOM series.
        base: outputs are named after it: ``<base>_fracture.nii.gz`` and so on.
        pipeline: networks and post-processing.
        outputs: files that are written.
        vertebrae: mask of vertebra instances (VerSe labels) on the grid of the scan, or folder of TotalSegmentator, for the levels.
        expect_hu: reject values that are not HU.
        limit: memory allowed, in bytes.
        process_bytes: peak memory of the process before its first scan.
        facts: stored with the result, such as the digest of the settings.
        progress: called with a phase, the part that is done, and the total.
        log: receives lines for the terminal.
        rules: assumed orientation and tolerance of positions.
        parts: folders with the other slices of a DICOM series.
        remarks: lines on the input, which become notes of the scan.
        budget: memory that is shared with other scans in progress.

    Returns:
        The result, as in ``cases/<name>.json`` next to the masks, which is written last.

    Raises:
        ValueError: one line that names the file, the value and the remedy.
    """
    timer, notes = PhaseTimer(), []

    def note(text: str) -> None:
        notes.append(text)
        log(f"note: {text}")

    with timer("read"):
        header = read_header(source, require_volume=expect_hu, rules=rules, parts=parts)
    for text in (*remarks, *header.notes):
        note(text)
    grid, patch = pipeline.working_grid(header), pipeline.patch
    by_vertebra = pipeline.post.decision == "vertebra" and (pipeline.by_vertebra or vertebrae is not None)
    refuse_others(base, outputs.endings(by_vertebra, header.series is not None and dicom_seg.available()), vertebrae)
    plan = plan_memory(
        header,
        grid,
        patch.size,
        patch.sw_batch_size,
        process_bytes,
        limit,
        SAMPLE_BYTES,
        patch.num_context_slices,
        by_vertebra,
        mask_bytes(vertebrae, header),
    )
    log(f"{base.name}: {' x '.join(map(str, header.shape))} voxels; {plan.line()}")
    base.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if budget is None else budget.hold(plan):
        spool = base.parent if plan.spool else None
        with timer("read"):
            count = None if progress is None else lambda n: progress("reading", n, header.shape[2])
            scan = Scan(header, spool, expect_hu, count)
        for text in scan.warnings if expect_hu else (*scan.warnings, NOT_CHECKED):
            note(text)
        instances = None
        try:
            instances = read_given_vertebrae(vertebrae, header, rules, spool)
            predicted = pipeline(scan, grid, timer, progress)
            write_seg = outputs.dicom_seg and not outputs.statistics_only and header.series is not None
            if write_seg and not dicom_seg.available():
                write_seg = False
                note(f"{base.name}_seg.dcm was not written: {dicom_seg.NOT_INSTALLED}")
            remove_earlier(base, vertebrae)  # of other settings, another content or an interrupted run
            version, name = (str((facts or {}).get(key, default)) for key, default in (("version", ""), ("case_path", base.name)))
            case = _Case(base, scan, grid, predicted, instances, pipeline, outputs, timer, version, name, note)
            written = _write_vertebrae(case, write_seg) if by_vertebra else _write_findings(case, write_seg)
        finally:
            scan.close()
            if instances is not None:
                instances.close()
        files = [] if header.series is None else header.series.files
        folders = {str(Path(f).resolve()) for f in ((source, *parts) if parts else {file.parent for file in files})}
        joined = {"parts": {f: input_hash(f) for f in sorted(folders)}} if len(folders) > 1 else {}
        return _write_result(case, plan, written, {**dict(facts or {}), **joined, "notes": notes})


def _write_findings(case: _Case, write_seg: bool) -> dict[str, list]:
    """Connected components of voxels above the threshold: mask, overlay, DICOM-SEG."""
    timer, series = case.timer, case.scan.header.series
    with timer("post-processing"):
        numbers = case.pipeline.post(case.predicted.volume, case.grid.spacing)
    with timer("write"):
        measurements, planes = _write_slices(case, numbers, write_seg)
    rows = measurements.rows(case.name)
    for row in rows:
        if row["levels"] == OUTSIDE:
            case.note(f"finding {row['finding']} ({row['volume_ml']:.2f} ml) lies outside every vertebra of the given mask")
    _draw(case, numbers, rows=rows)
    if write_seg and rows and series is not None:
        with timer("DICOM-SEG"):
            path = case.path("_seg.dcm")
            try:
                dicom_seg.write_segmentation(path, series, planes, rows, case.version, case.note)
            except OSError:
                raise
            except Exception as error:  # a series without some tags still has its mask
                case.note(f"{path.name} was not written: {first_line(error)}")
    return {"findings": rows}


def _write_vertebrae(case: _Case, write_seg: bool) -> dict[str, list]:
    """One decision per vertebra: masks of vertebrae and fractures, overview, viewer, DICOM-SEG and SR."""
    outputs, timer, series = case.outputs, case.timer, case.scan.header.series
    with timer("vertebrae"):
        pipeline = case.pipeline
        found = find_scan_vertebrae(case.scan, case.grid, case.predicted, pipeline.post, case.vertebrae, pipeline.cortex_mm)
    for text in found.notes:
        case.note(text)
    if not found.records:
        case.note("no vertebra was found; the masks are empty")
    with timer("write"):
        rows, planes = write_vertebra_masks(
            case.base, case.scan, case.grid, found, not outputs.statistics_only, write_seg and bool(found.records), case.name
        )
        if outputs.save_probabilities:
            write_probability(case.base, case.scan.header, case.predicted, case.grid)
    for record in found.records:
        record.case = case.name
    numbers = np.where(found.decisions.mask(), found.labels, 0).astype(np.int32)
    _draw(case, numbers, found)
    if write_seg and planes and series is not None:
        with timer("DICOM"):
            write_dicom(case.base, series, planes, found, case.version, case.note)
    return {
        "findings": rows,
        "vertebrae": [r.row() for r in found.records],
        "calibration": [float(v) for v in case.pipeline.post.calibration],
    }


def _draw(
    case: _Case, numbers: NDArray[np.int32], found: ScanVertebrae | None = None, rows: Sequence[Mapping[str, object]] = ()
) -> None:
    """Write the overlay of the findings and, with vertebrae, the overview and the viewer."""
    if not case.outputs.preview or case.outputs.statistics_only:
        return
    with DRAWING, case.timer("picture"):
        try:
            if found is not None and found.records:
                save_vertebra_views(case.base, case.scan, case.grid, found.labels, found.origin, found.records, case.base.name)
            shown, threshold = case.predicted, case.pipeline.post.threshold
            if found is not None:  # whole vertebrae are outlined
                shown, threshold = Probabilities((numbers > 0).astype(np.float16), found.origin), 0.5
            names = {int(str(r["finding"])): f"{r['finding']}: {r['levels']}" for r in rows if r["levels"]}
            if found is not None:
                names = {r.vertebra: r.name for r in found.records}
            save_views(case.path("_overlay.png"), case.scan, case.grid, shown, numbers, threshold, case.base.name, names)
        except ImportError as error:  # an environment without matplotlib, such as MONAI Label's
            case.note(f"{case.base.name}_overlay.png was not drawn: {error}; pip install matplotlib")
        except OSError:
            raise
        except Exception as error:  # of the drawing library; the masks and tables of the scan are complete
            case.note(f"a picture of {case.base.name} was not drawn: {first_line(error)}")


def _write_result(case: _Case, plan: MemoryPlan, written: Mapping[str, list], facts: Mapping[str, object]) -> dict:
    header, num_windows = case.scan.header, case.predicted.num_windows
    result = {
        "case": case.base.name,
        "input": os.path.abspath(header.path),  # of the same scan from any folder
        "shape": list(header.shape),
        "spacing_mm": [round(float(s), 4) for s in header.spacing],
        "working_spacing_mm": [round(float(s), 4) for s in case.grid.spacing],
        **written,
        "windows": {"coarse_windows": num_windows[0], "fine_windows": num_windows[1]},
        "seconds": {k: round(v, 3) for k, v in case.timer.seconds.items()},
        "memory_mib": {"predicted": round(plan.peak / MIB), "process_peak": round(peak_resident() / MIB)},
        **dict(facts),
    }
    write_text(record_path(case.base), json.dumps(result, indent=1) + "\n")
    return result
