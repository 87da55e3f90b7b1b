# SPDX-License-Identifier: Apache-2.0
"""Domain checks of one scan: one pass as it is, one for every perturbation, coverage and HU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.pipeline import Pipeline
from ..inference.regions import coarse_copy, spine_region
from ..inference.vertebrae import ScanVertebrae, find_scan_vertebrae
from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.scan_header import ScanHeader, read_header
from ..io.working_grid import WorkingGrid
from .domain_agreement import HALF, Agreement, Outputs, compare_outputs, on_grid, predict, restored, there_and_back
from .domain_coverage import Coverage, measure_coverage
from .domain_hu import HuStatistics, histogram, measure_hu
from .domain_perturbations import ORIGINAL, Perturbation, perturbations
from .domain_verdicts import Check, agreement_check, coverage_checks, hu_checks, overall

MAX_VOXELS = 200_000_000  # of the working grid: about 3 GB while a pass is compared
Step = Callable[[str], None]


@dataclass
class Panel:
    """One sagittal slice of a pass, on the grid of the original scan.

    Attributes:
        name: name of the pass.
        hu: (A, S) HU.
        body: (A, S) mask of vertebral body.
    """

    name: str
    hu: NDArray[np.int16]
    body: NDArray[np.bool_]


@dataclass
class ScanCheck:
    """Domain checks of a scan.

    Attributes:
        agreements: one per perturbation.
        coverage: share of the spine that instances cover.
        hu: HU and voxel sizes.
        checks: verdicts.
        probabilities: fracture probability of every complete vertebra, by its name and the name of the pass.
        panels: slices for the report, the original first.
        counts: histogram of the HU: centres and counts.
        spacing: mm of the working grid along R, A, S.
        notes: remarks on the header.
        seconds: time used.
    """

    agreements: list[Agreement]
    coverage: Coverage
    hu: HuStatistics
    checks: list[Check]
    probabilities: dict[str, dict[str, float]]
    panels: list[Panel]
    counts: tuple[NDArray, NDArray]
    spacing: tuple[float, float, float]
    notes: Sequence[str] = ()
    seconds: float = field(default=0.0)

    def as_json(self) -> dict[str, Any]:
        """Results for JSON and tables; undefined numbers are null."""

        def finite(value: Any) -> Any:
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return {
            "verdict": overall(self.checks),
            "checks": [asdict(c) for c in self.checks],
            "agreement": [a.row() for a in self.agreements],
            "coverage": {k: finite(v) for k, v in asdict(self.coverage).items()},
            "hu": {k: finite(round(v, 2)) for k, v in asdict(self.hu).items()},
            "fracture_probability": {v: {k: finite(round(p, 4)) for k, p in row.items()} for v, row in self.probabilities.items()},
            "working_spacing_mm": [round(s, 4) for s in self.spacing],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
        }


def passes_of(header: ScanHeader, pipeline: Pipeline) -> list[Perturbation]:
    """Perturbations of a scan, those that it is too coarse for with a reason."""
    grid = pipeline.working_grid(header)
    stored_mm = float(header.spacing[grid.axes[2]])
    return perturbations(grid.spacing, stored_mm, [p for p in pipeline.runners if p != "volume"])


def _shown_slice(found: ScanVertebrae, shape: Sequence[int]) -> int:
    """Sagittal slice with the largest area of bodies, or the middle one."""
    bodies = found.decisions.instances.bodies
    return found.origin[0] + int(bodies.sum(axis=(1, 2)).argmax()) if bodies.any() else shape[0] // 2


def _bodies_hu(found: ScanVertebrae, volume: NDArray[np.int16]) -> NDArray[np.int16] | None:
    bodies = found.decisions.instances.bodies
    if not bodies.any():
        return None
    box = tuple(slice(o, o + n) for o, n in zip(found.origin, bodies.shape, strict=True))
    return volume[box][bodies]


def _panel(name: str, volume: NDArray, outputs: Outputs, index: int) -> Panel:
    return Panel(name, np.asarray(volume[index]).astype(np.int16), np.asarray(outputs.body[index] > HALF))


def check_scan(
    source: str, pipeline: Pipeline, expect_hu: bool = True, step: Step | None = None, parts: Sequence[str] = ()
) -> ScanCheck:
    """Run the domain checks of one scan.

    All passes start from the scan on the working grid, so that they differ by their perturbation alone. Only the search for the
    spine, which uses a coarse copy of the scan, may differ by a few voxels from that of ``segment``.

    Args:
        source: NIfTI, NRRD or MHA file, or folder of a DICOM series.
        pipeline: networks with outputs of vertebra and body.
        expect_hu: refuse values that are not HU.
        step: called with the name of every pass before it runs.
        parts: folders with the other slices of a DICOM series.

    Raises:
        ValueError: one line; an unreadable scan, or one that is too large.
    """
    start, header = time.perf_counter(), read_header(source, require_volume=expect_hu, parts=parts)
    grid = pipeline.working_grid(header)
    if int(np.prod(grid.shape, dtype=np.int64)) > MAX_VOXELS:
        shown = " x ".join(map(str, grid.shape))
        raise ValueError(f"{source}: {shown} voxels on the grid of the network are too many for this check; crop the scan")
    scan = Scan(header, expect_hu=expect_hu)
    volume = sample(scan.slab, grid, [np.arange(n) for n in grid.shape])
    (step or (lambda name: None))(ORIGINAL.name)
    predicted = predict(pipeline, volume, grid, source)
    found = find_scan_vertebrae(scan, grid, predicted, pipeline.post)
    bone = bool(spine_region(*coarse_copy(scan, grid), grid, "spine").mask.any())
    scan.close()
    original = on_grid(predicted, grid.shape)
    index = _shown_slice(found, grid.shape)
    panels, agreements = [_panel(ORIGINAL.name, volume, original, index)], []
    for perturbation in passes_of(header, pipeline):
        (step or (lambda name: None))(perturbation.name)
        if perturbation.skipped:
            agreements.append(Agreement(perturbation.name, skipped=perturbation.skipped))
            continue
        agreement, panel = _perturbed(perturbation, pipeline, volume, grid, source, original, found, index)
        agreements.append(agreement)
        panels.append(panel)
    coverage = measure_coverage(found, volume, grid.spacing, bone)
    trabecular = [r.trabecular_hu for r in found.records]
    hu = measure_hu(volume, _bodies_hu(found, volume), trabecular, [float(header.spacing[a]) for a in grid.axes])
    return ScanCheck(
        agreements, coverage, hu, _verdicts(pipeline, agreements, coverage, hu), _probabilities(found, agreements), panels,
        histogram(volume), grid.spacing, (*header.notes, *scan.warnings), time.perf_counter() - start,
    )  # fmt: skip


def _perturbed(
    perturbation: Perturbation,
    pipeline: Pipeline,
    volume: NDArray[np.int16],
    grid: WorkingGrid,
    source: str,
    original: Outputs,
    found: ScanVertebrae,
    index: int,
) -> tuple[Agreement, Panel]:
    """One perturbed pass: its agreement with the original one, and its slice for the report."""
    changed = perturbation.apply(volume)
    other = restored(on_grid(predict(pipeline, changed, grid, source, perturbation.plane), grid.shape), perturbation)
    slope, intercept = pipeline.post.calibration
    reference = there_and_back(original, perturbation)
    agreement = compare_outputs(perturbation.name, original, found, other, grid.spacing, (slope, intercept), reference)
    return agreement, _panel(perturbation.name, perturbation.restore(changed), other, index)


def _verdicts(pipeline: Pipeline, agreements: Sequence[Agreement], coverage: Coverage, hu: HuStatistics) -> list[Check]:
    # A network of single sagittal slices receives the same images, in the other order.
    single = list(pipeline.runners) == ["sagittal"] and pipeline.patch.neighbours == 0
    checks = [agreement_check(a, trivial=single and a.name == "mirrored") for a in agreements]
    if len(pipeline.runners) == 1 and "volume" not in pipeline.runners:
        only = next(iter(pipeline.runners))
        checks.append(Check("agreement", "planes", "", "not measurable", f"there are only weights of {only} slices"))
    return [*checks, *coverage_checks(coverage), *hu_checks(hu)]


def _probabilities(found: ScanVertebrae, agreements: Sequence[Agreement]) -> dict[str, dict[str, float]]:
    return {
        r.name: {
            ORIGINAL.name: r.fracture_probability,
            **{a.name: a.probability[r.vertebra] for a in agreements if r.vertebra in a.probability},
        }
        for r in found.records
        if r.complete
    }
