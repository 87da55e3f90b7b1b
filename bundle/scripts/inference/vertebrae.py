# SPDX-License-Identifier: Apache-2.0
"""Vertebrae of one scan: instances, one decision each, levels, and measurements by height."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ..core.vertebrae import LEVELS, spine_order
from ..io.ct_volume import Scan
from ..io.resample import sample, sample_nearest
from ..io.working_grid import WorkingGrid
from ..postprocessing.body_heights import METAL_NOTE, measure_vertebrae
from ..postprocessing.body_masks import vertebral_bodies
from ..postprocessing.cortex_surface import include_cortex, surface_box
from ..postprocessing.endplate_edges import CtSampler
from ..postprocessing.findings import PostProcessing, connected_components
from ..postprocessing.fragments import VertebraSlice, vertebra_slices
from ..postprocessing.genant_grading import grade_vertebrae
from ..postprocessing.probability_map import Probabilities
from ..postprocessing.vertebra_decision import VertebraDecisions, decide
from ..postprocessing.vertebra_instances import VertebraInstances, complete_bodies, find_vertebrae
from ..postprocessing.vertebra_levels import levels_without_sacrum
from ..postprocessing.vertebra_record import CUT_NOTE, VertebraRecord

ROOM_MM = 12.0  # around given instances
ATLAS = 1
NO_BODY_NOTE = "C1 has no body: no heights"
SACRUM = 26  # VerSe's label; Genant's grades are of T4 to L4, and fractures of the sacrum are no vertebral fractures
# Mean probability of body in a body; clear ones have 0.92 and more, and below this the endplates are guesswork.
MIN_BODY_CERTAINTY = 0.87


@dataclass
class ScanVertebrae:
    """Vertebrae of a scan in a box of its working grid.

    Attributes:
        decisions: instances with their fracture probabilities.
        records: one row per vertebra, from the head to the feet.
        origin: first voxel of the box in the working grid.
        probability: probabilities of vertebra (R, A, S) in the box, whose surface is that of the masks; None with a given mask.
        mask: given mask of instances on the grid of the scan.
        numbers: (256,) number of the vertebra by label of that mask.
        notes: remarks on the scan.
    """

    decisions: VertebraDecisions
    records: list[VertebraRecord]
    origin: tuple[int, int, int]
    probability: NDArray[np.float16] | None = None
    mask: Scan | None = None
    numbers: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(256, np.uint8))
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Number of the vertebra (R, A, S) in the box."""
        return self.decisions.instances.labels

    @property
    def fractured(self) -> NDArray[np.bool_]:
        """(256,) True for the numbers of fractured vertebrae."""
        lookup = np.zeros(256, bool)
        lookup[[r.vertebra for r in self.records if r.fractured]] = True
        return lookup

    def slices(self, grid: WorkingGrid) -> Iterator[VertebraSlice]:
        """Slices of the scan with vertebrae: index, box (rows J, columns I), and the number of the vertebra (J, I) in it."""
        if self.mask is not None:
            i, j, k = self.mask.header.shape
            for index in range(k):
                numbers = self.numbers[np.clip(self.mask.slab(index, index + 1)[0], 0, 255)]
                if numbers.any():
                    yield index, (slice(0, j), slice(0, i)), numbers
            return
        if self.probability is None or not self.records:
            return
        box = find_objects((self.labels > 0).astype(np.uint8))[0]
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        origin = tuple(o + s.start for o, s in zip(self.origin, box, strict=True))
        voxel_mm3 = float(abs(np.linalg.det(grid.affine[:3, :3]))) / float(np.prod(grid.steps))
        yield from vertebra_slices(self.probability[box], self.labels[box], origin, grid, voxel_mm3)


def _given_instances(
    mask: Scan, grid: WorkingGrid, predicted: Probabilities
) -> tuple[VertebraInstances, Probabilities, NDArray[np.uint8], list[int], list[str]]:
    """Instances of a given mask on the working grid, with the probabilities in the same box."""
    labels = sample_nearest(mask.slab, grid, [np.arange(n) for n in grid.shape])
    order = [v for v in spine_order(labels) if v != SACRUM]
    numbers, notes = np.zeros(256, np.uint8), []
    others = sorted(set(np.unique(labels).tolist()) - {0, SACRUM, *LEVELS})
    if others:
        shown = ", ".join("outside 0 to 254" if v == 255 else str(v) for v in others[:5])  # see sample_nearest
        notes.append(f"{mask.header.path}: labels {shown} are no vertebrae of VerSe and are left out")
    if not order:
        return VertebraInstances(np.zeros((0, 0, 0), np.uint8), np.zeros((0, 0, 0), bool), {}), predicted, numbers, [], notes
    numbers[order] = np.arange(1, len(order) + 1)
    labels = numbers[labels]
    found = find_objects((labels > 0).astype(np.uint8))[0]
    # Room on all sides where there is some: what touches the border of the box counts as cut.
    room = [int(np.ceil(ROOM_MM / s)) for s in grid.spacing]
    box = tuple(slice(max(s.start - r, 0), min(s.stop + r, n)) for s, r, n in zip(found, room, labels.shape, strict=True))
    labels = np.ascontiguousarray(labels[box])
    origin = tuple(s.start for s in box)
    local = grid.affine.copy()
    local[:3, 3] = grid.affine[:3, :3] @ origin + grid.affine[:3, 3]
    bodies, unknown = vertebral_bodies(labels, local, list(range(1, len(order) + 1)))
    # A vertebra without a whole body in the mask is decided by all of it.
    for number in unknown:
        bodies |= labels == number
    moved = Probabilities(
        _moved(predicted.volume, predicted.origin, origin, labels.shape), origin, predicted.num_windows,
        {n: _moved(v, predicted.origin, origin, labels.shape) for n, v in predicted.auxiliary.items()},
    )  # fmt: skip
    border = [(s.start == 0, s.stop == n) for s, n in zip(box, grid.shape, strict=True)]
    uncut = complete_bodies(np.where(bodies, labels, 0), len(order), grid.spacing, border)
    complete = {n: uncut[n] and n not in unknown for n in range(1, len(order) + 1)}
    return VertebraInstances(labels, bodies, complete), moved, numbers, order, notes


def _outside(
    predicted: Probabilities, origin: Sequence[int], labels: NDArray[np.uint8], grid: WorkingGrid, post: PostProcessing, path: str
) -> list[str]:
    """Remark on findings outside every vertebra of a given mask, which have no row."""
    inside = _moved(labels, origin, predicted.origin, predicted.volume.shape) > 0
    components = connected_components((predicted.volume > post.threshold) & ~inside, grid.spacing)
    volume = sum(c.voxels for c in post.select(components, grid.spacing)) * float(np.prod(grid.spacing)) / 1000
    return [f"{volume:.1f} ml of fracture by voxel lie outside every vertebra of {path} and are left out"] if volume > 0 else []


def _moved(volume: NDArray, origin: Sequence[int], target: Sequence[int], shape: Sequence[int]) -> NDArray:
    """Values of a box at ``origin`` in the box of another origin and shape; 0 outside the first."""
    result = np.zeros(shape, volume.dtype)
    low = [max(o, t) for o, t in zip(origin, target, strict=True)]
    high = [min(o + a, t + b) for o, a, t, b in zip(origin, volume.shape, target, shape, strict=True)]
    if all(h > n for n, h in zip(low, high, strict=True)):
        into = tuple(slice(n - t, h - t) for n, h, t in zip(low, high, target, strict=True))
        result[into] = volume[tuple(slice(n - o, h - o) for n, h, o in zip(low, high, origin, strict=True))]
    return result


def find_scan_vertebrae(
    scan: Scan, grid: WorkingGrid, predicted: Probabilities, post: PostProcessing, mask: Scan | None = None, cortex_mm: float = 0.0
) -> ScanVertebrae:
    """Find, decide and measure the vertebrae of a scan.

    Args:
        scan: voxels in HU.
        grid: working grid.
        predicted: probabilities, with the outputs of vertebra and body unless a mask is given.
        post: threshold and calibration.
        mask: vertebra instances in VerSe's labels on the grid of the scan; they replace those of the network.
        cortex_mm: the farthest that the masks of the network grow to the outer edge of their cortex, after decisions and
            measurements; 0 keeps them.
    """
    numbers = np.zeros(256, np.uint8)
    order: list[int] = []
    notes: list[str] = []
    probability, body = None, predicted.auxiliary.get("body")
    if mask is not None:
        whole = predicted
        instances, predicted, numbers, order, notes = _given_instances(mask, grid, predicted)
        notes += _outside(whole, predicted.origin, instances.labels, grid, post, mask.header.path)
        body = None
    elif body is None:
        raise ValueError(f"{scan.header.path}: the network has no output of body; add a mask of vertebrae, or decide by voxel")
    else:
        instances = find_vertebrae(predicted.auxiliary["vertebra"], body, grid.spacing, predicted.border(grid.shape))
        probability = np.maximum(predicted.auxiliary["vertebra"], np.where(instances.bodies, body, np.float16(0)))
    labels, source = {n: v for n, v in enumerate(order, 1)}, "mask"
    if mask is None:
        instances, labels = levels_without_sacrum(instances, grid.spacing, predicted.origin[2])
        source = "guess"
    decisions = decide(instances, predicted.volume, body, post.threshold, post.calibration)
    records = [
        VertebraRecord(
            vertebra=n,
            label=labels.get(n),
            level=LEVELS[labels[n]] if n in labels else "",
            level_source=source if n in labels else "",
            complete=instances.complete[n],
            fracture_probability=decisions.probability.get(n, float("nan")),
            fractured=n in decisions.fractured,
        )
        for n in instances.numbers
    ]
    _measure(records, instances, predicted, body, scan, grid)
    if probability is not None and cortex_mm > 0 and records:
        grown = instances.labels.copy()
        box = surface_box(grown, grid.spacing, cortex_mm)
        origin = [o + s.start for o, s in zip(predicted.origin, box, strict=True)]
        hu = _sampled(scan, grid, origin, grown[box].shape)
        grown[box], probability[box] = include_cortex(grown[box], probability[box], hu, grid.spacing, cortex_mm)
        decisions = replace(decisions, instances=replace(instances, labels=grown))
    return ScanVertebrae(decisions, records, predicted.origin, probability, mask, numbers, notes)


def _sampled(scan: Scan, grid: WorkingGrid, origin: Sequence[int], shape: Sequence[int]) -> NDArray[np.int16]:
    """HU of a box of the working grid."""
    return sample(scan.slab, grid, [o + np.arange(n) for o, n in zip(origin, shape, strict=True)])


def _measure(
    records: list[VertebraRecord],
    instances: VertebraInstances,
    predicted: Probabilities,
    body: NDArray | None,
    scan: Scan,
    grid: WorkingGrid,
) -> None:
    """Fill heights, HU, volumes and grades of the records."""
    if not records:
        return
    affine = grid.affine.copy()
    affine[:3, 3] = grid.affine[:3, :3] @ predicted.origin + grid.affine[:3, 3]
    voxels = scan.in_memory
    hu: NDArray | CtSampler
    if voxels is not None:
        hu = CtSampler(voxels.transpose(2, 1, 0), scan.header.affine)
    else:  # the temporary file has no random access
        hu = _sampled(scan, grid, predicted.origin, instances.labels.shape)
    within = instances.bodies if body is None else body
    measured = measure_vertebrae(instances.labels, affine, instances.numbers, body=within, hu=hu)
    voxel_ml = float(np.prod(grid.spacing)) / 1000
    counts = np.bincount(instances.labels.ravel(), minlength=256)
    gradable: list[VertebraRecord] = []
    for record in records:
        m = measured[record.vertebra]
        record.volume_ml = float(counts[record.vertebra] * voxel_ml)
        record.body_volume_ml, record.centroid_mm = m.body_volume_ml, m.centroid_mm
        if record.label == ATLAS:
            record.body_volume_ml, record.note = float("nan"), NO_BODY_NOTE
            continue
        if not record.complete:
            record.note = CUT_NOTE
            continue
        certainty = float(within[(instances.labels == record.vertebra) & instances.bodies].mean()) if body is not None else 1.0
        record.heights_mm, record.heights_sd_mm = m.heights_mm, m.heights_sd_mm
        record.trabecular_hu, record.trabecular_hu_sd = m.trabecular_hu, m.trabecular_hu_sd
        record.note = m.note
        if certainty < MIN_BODY_CERTAINTY:
            uncertain = f"body uncertain (mean probability {certainty:.2f}): no grade"
            record.note = f"{m.note}; {uncertain}" if m.note else uncertain
        elif METAL_NOTE not in m.note:
            gradable.append(record)
    grade_vertebrae(gradable)
