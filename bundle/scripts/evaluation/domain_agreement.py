# SPDX-License-Identifier: Apache-2.0
"""Agreement of the outputs for a scan and for its perturbed copy, without a reference."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inference.pipeline import Pipeline
from ..inference.vertebrae import ScanVertebrae
from ..io.scan_header import ScanHeader
from ..io.working_grid import WorkingGrid
from ..postprocessing.probability_map import Probabilities
from ..postprocessing.vertebra_decision import decide
from ..postprocessing.vertebra_instances import find_vertebrae
from .domain_perturbations import Perturbation

HALF = 0.5  # probability of a mask
SAME_INSTANCE_IOU = 0.5  # above it no two instances match one vertebra
NAN = float("nan")


class VolumeScan:
    """Volume (R, A, S) on a working grid with the interface of ``io.ct_volume.Scan``.

    Args:
        path: name for messages.
        volume: HU, int16.
        affine: voxel to world (R, A, S, mm).
    """

    def __init__(self, path: str, volume: NDArray[np.int16], affine: NDArray[np.float64]) -> None:
        self.header = ScanHeader(path, volume.shape, affine, np.dtype(np.int16))  # type: ignore[arg-type]
        self.in_memory = volume.transpose(2, 1, 0)

    def slab(self, start: int, stop: int) -> NDArray[np.int16]:
        """HU of slices ``start`` to ``stop``, (K, J, I)."""
        return self.in_memory[start:stop]


@dataclass
class Outputs:
    """Probabilities (R, A, S) of a pass on the whole working grid, float16."""

    fracture: NDArray[np.float16]
    vertebra: NDArray[np.float16]
    body: NDArray[np.float16]


@dataclass
class Agreement:
    """Agreement of one perturbed pass with the original one; NaN where it is not defined.

    Attributes:
        name: name of the perturbation.
        vertebra_dsc: DSC of the masks of vertebra (probability above 0.5).
        body_dsc: DSC of the masks of vertebral body.
        instances: vertebrae of the original pass.
        vertebrae: complete ones of these.
        found_again: fraction of the complete ones that one instance of the perturbed pass overlaps by an IoU above 0.5.
        difference: largest change of the fracture probability of a complete vertebra.
        changed: complete vertebrae whose decision changes.
        where: name of the vertebra of the largest change.
        probability: fracture probability by number of the vertebra.
        skipped: reason why the pass was not run, or "".
    """

    name: str
    vertebra_dsc: float = NAN
    body_dsc: float = NAN
    vertebrae: int = 0
    instances: int = 0
    found_again: float = NAN
    difference: float = NAN
    changed: int = 0
    where: str = ""
    probability: dict[int, float] = field(default_factory=dict)
    skipped: str = ""

    def row(self) -> dict[str, Any]:
        """Values for tables and JSON; an undefined value is ""."""
        values = {k: v for k, v in self.__dict__.items() if k != "probability"}
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        return {k: "" if isinstance(v, float) and np.isnan(v) else v for k, v in rounded.items()}


def dsc(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice similarity coefficient of two masks; NaN where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else NAN


def predict(pipeline: Pipeline, volume: NDArray[np.int16], grid: WorkingGrid, path: str, plane: str = "") -> Probabilities:
    """Probabilities of a volume on the working grid, by the project's pipeline.

    Args:
        pipeline: networks and post-processing.
        volume: HU (R, A, S).
        grid: working grid of the scan.
        path: name for messages.
        plane: plane whose networks are used alone; "" uses all.
    """
    used = pipeline
    if plane:
        used = copy.copy(pipeline)
        used.runners = {plane: pipeline.runners[plane]}
    scan: Any = VolumeScan(path, volume, grid.affine)
    return used(scan, WorkingGrid.plan(volume.shape, grid.affine, grid.spacing))


def on_grid(predicted: Probabilities, shape: tuple[int, ...]) -> Outputs:
    """Outputs on the whole working grid; 0 where nothing was predicted."""
    box = tuple(slice(o, o + n) for o, n in zip(predicted.origin, predicted.volume.shape, strict=True))
    volumes: Mapping[str, NDArray[np.float16]] = {"fracture": predicted.volume, **predicted.auxiliary}
    full = {name: np.zeros(shape, np.float16) for name in ("fracture", "vertebra", "body")}
    for name, values in full.items():
        values[box] = volumes[name]
    return Outputs(**full)


def restored(outputs: Outputs, perturbation: Perturbation) -> Outputs:
    """Outputs of a perturbed volume on the grid of the original one."""
    return Outputs(*(perturbation.restore(v).astype(np.float16) for v in (outputs.fracture, outputs.vertebra, outputs.body)))


def there_and_back(outputs: Outputs, perturbation: Perturbation) -> Outputs:
    """Outputs that went the way of a perturbation and back, so that interpolation alone is no disagreement."""
    if not perturbation.interpolates:
        return outputs
    moved = Outputs(*(perturbation.apply(v.astype(np.float32)) for v in (outputs.fracture, outputs.vertebra, outputs.body)))
    return restored(moved, perturbation)


def compare_outputs(
    name: str,
    original: Outputs,
    found: ScanVertebrae,
    other: Outputs,
    spacing: tuple[float, float, float],
    calibration: tuple[float, float],
    reference: Outputs | None = None,
) -> Agreement:
    """Compare a perturbed pass with the original one.

    The fracture probability of both is averaged over the bodies of the original pass, so that its change is that of the fracture
    output alone; a change of the bodies shows in the DSC and in the vertebrae that are found again.

    Args:
        name: name of the perturbation.
        original: outputs of the original pass.
        found: its vertebrae.
        other: outputs of the perturbed pass on the grid of the original one.
        spacing: mm.
        calibration: slope and intercept of the probabilities.
        reference: outputs that are compared, see ``there_and_back``; those of the original pass by default.
    """
    masks = reference or original
    result = Agreement(name, dsc(masks.vertebra > HALF, other.vertebra > HALF), dsc(masks.body > HALF, other.body > HALF))
    numbers = [r.vertebra for r in found.records if r.complete]
    result.instances, result.vertebrae = len(found.records), len(numbers)
    if not numbers:
        return result
    instances = found.decisions.instances
    box = tuple(slice(o, o + n) for o, n in zip(found.origin, instances.labels.shape, strict=True))
    decisions = decide(instances, other.fracture[box], original.body[box], found.decisions.threshold, calibration)
    threshold = found.decisions.threshold
    before = decide(instances, masks.fracture[box], original.body[box], threshold, calibration).probability
    result.probability = {n: decisions.probability[n] for n in numbers}
    change = {n: abs(result.probability[n] - before[n]) for n in numbers}
    largest = max(numbers, key=lambda n: change[n])
    result.difference = change[largest]
    result.where = next(r.name for r in found.records if r.vertebra == largest)
    result.changed = sum((result.probability[n] >= threshold) != (before[n] >= threshold) for n in numbers)
    again = find_vertebrae(other.vertebra, other.body, spacing).labels[box]
    result.found_again = float(np.mean([_best_iou(instances.labels == n, again) > SAME_INSTANCE_IOU for n in numbers]))
    return result


def _best_iou(mask: NDArray[np.bool_], labels: NDArray[np.uint8]) -> float:
    """Largest IoU of a mask with an instance in the same box."""
    counts = np.bincount(labels[mask], minlength=2)
    counts[0] = 0
    best = int(counts.argmax())
    return float(counts[best] / (mask | (labels == best)).sum()) if counts[best] else 0.0
