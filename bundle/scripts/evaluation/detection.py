# SPDX-License-Identifier: Apache-2.0
"""Detection of fractures: components of a prediction matched with the reference fractures or vertebrae of one case.

Localisation criterion and terms follow Metrics Reloaded (Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, maximum

from ..core.components import label_components
from ..core.vertebrae import LABELS, LEVELS
from .overlap import bounding_box

RIM_MM = 3.0  # from an ignored part of a finding, within which what remains of it is no finding of its own
MIN_FRACTURE_FRACTION = 0.5  # of the valid voxels of a fractured vertebra that are labelled as fracture


@dataclass
class Detection:
    """Connected component of a prediction.

    Attributes:
        volume_ml: volume in ml.
        confidence: highest probability in it; its volume (ml) without probabilities.
        overlap: fraction of it inside reference fractures.
    """

    volume_ml: float
    confidence: float
    overlap: float


@dataclass
class Target:
    """Reference fracture; with vertebra instances any vertebra.

    Attributes:
        name: level, or the number of the component.
        fractured: label in the reference.
        grade: Genant grade, "" for unknown.
        shape: Genant shape, "" for unknown.
        volume_ml: volume in ml without ignored voxels.
        covered: fraction of it inside each detection, by index of the detection.
    """

    name: str
    fractured: bool
    grade: str
    shape: str
    volume_ml: float
    covered: dict[int, float] = field(default_factory=dict)

    def coverage(self, detections: Sequence[Detection], threshold: float = -np.inf) -> float:
        """Fraction inside detections of at least a confidence."""
        return sum(s for k, s in self.covered.items() if detections[k].confidence >= threshold)

    def iou(self, detections: Sequence[Detection]) -> float:
        """Intersection over union with the detections that overlap it.

        Voxels of a detection inside other fractures are left out of the union; those outside every fracture count.
        """
        intersection = self.coverage(detections) * self.volume_ml
        overlapping = [detections[k] for k in self.covered]
        if self.fractured:
            false_positive_ml = sum(d.volume_ml * (1 - d.overlap) for d in overlapping)
        else:
            false_positive_ml = sum(d.volume_ml for d in overlapping) - intersection
        return intersection / (self.volume_ml + false_positive_ml)

    def detection_threshold(self, detections: Sequence[Detection], min_overlap: float) -> float:
        """Highest confidence threshold at which the target is detected; minus infinity for an undetected one."""
        covered = 0.0
        for k in sorted(self.covered, key=lambda k: -detections[k].confidence):
            covered += self.covered[k]
            if covered >= min_overlap:
                return detections[k].confidence
        return -np.inf


@dataclass
class Matching:
    """Detections and targets of one case.

    Attributes:
        detections: components of the prediction.
        targets: fractures or vertebrae of the reference.
        instances: True where the targets are vertebrae.
    """

    detections: list[Detection]
    targets: list[Target]
    instances: bool

    def true_positives(self, min_overlap: float) -> int:
        """Number of detections of which at least ``min_overlap`` lies in fractures."""
        return sum(d.overlap >= min_overlap for d in self.detections)

    @property
    def fractures(self) -> list[Target]:
        """Fractured targets."""
        return [t for t in self.targets if t.fractured]


def match(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    voxel_ml: float,
    vertebrae: NDArray[np.uint8] | None = None,
    rows: Mapping[int, Mapping[str, str]] | None = None,
    valid: NDArray[np.bool_] | None = None,
    probability: NDArray | None = None,
) -> Matching:
    """Match the components of a prediction with reference fractures.

    With vertebra instances the targets are the vertebrae, and a detection that covers two of them detects both; without, they are
    the connected components of the reference. Voxels of a detection share a face, as in the post-processing; those of a reference
    fracture at least a corner.

    Args:
        prediction: mask (X, Y, Z) without ignored voxels.
        reference: mask (X, Y, Z) without ignored voxels.
        voxel_ml: volume of a voxel (ml).
        vertebrae: instances (X, Y, Z) in VerSe's labels, or None.
        rows: row of ``vertebrae.csv`` by label, for grade and shape.
        valid: False at ignored voxels (X, Y, Z); a vertebra of which less than half is valid is not a target.
        probability: probability of a fracture (X, Y, Z), or None.
    """
    box = bounding_box(prediction, reference, *([] if vertebrae is None else [vertebrae > 0]))
    if any(part.start == part.stop for part in box):
        return Matching([], [], vertebrae is not None)
    prediction, reference = prediction[box], reference[box]
    components, count = label_components(prediction)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    inside = np.bincount(components[reference], minlength=count + 1)
    confidence = sizes[1:] * voxel_ml
    if probability is not None and count:
        confidence = np.atleast_1d(maximum(probability[box], components, np.arange(1, count + 1)))
    detections = [Detection(n * voxel_ml, float(c), i / n) for n, i, c in zip(sizes[1:], inside[1:], confidence, strict=True)]

    def target(name: str, part: tuple[slice, ...], mask: NDArray, fractured: bool, row: Mapping[str, str]) -> Target:
        counts = np.bincount(components[part][mask], minlength=count + 1)
        size = int(counts.sum())
        covered = {int(k) - 1: float(counts[k] / size) for k in np.flatnonzero(counts) if k}
        return Target(name, fractured, str(row.get("grade", "")), str(row.get("shape", "")), size * voxel_ml, covered)

    if vertebrae is None:
        # Resampled labels have single voxels that touch their fracture at a corner; each would be a separate fracture.
        regions, _ = label_components(reference, connectivity=reference.ndim)
        boxes = enumerate(find_objects(regions), 1)
        return Matching(detections, [target(str(k), part, regions[part] == k, True, {}) for k, part in boxes], False)
    vertebrae = vertebrae[box]
    valid = np.ones(vertebrae.shape, bool) if valid is None else valid[box]
    targets = []
    for label, part in enumerate(find_objects(vertebrae), 1):
        if part is None or label not in LEVELS or label == LABELS["S1"]:
            continue
        vertebra = vertebrae[part] == label
        mask = vertebra & valid[part]
        num_valid = int(np.count_nonzero(mask))
        if num_valid < MIN_FRACTURE_FRACTION * np.count_nonzero(vertebra):
            continue
        fractured = np.count_nonzero(reference[part] & mask) >= MIN_FRACTURE_FRACTION * num_valid
        targets.append(target(LEVELS[label], part, mask, bool(fractured), (rows or {}).get(label, {})))
    return Matching(detections, targets, True)


def match_case(
    prediction: NDArray,
    reference: NDArray,
    spacing: Sequence[float] | NDArray[np.float64],
    ignore_index: int = 255,
    vertebrae: NDArray[np.uint8] | None = None,
    rows: Mapping[int, Mapping[str, str]] | None = None,
    probability: NDArray | None = None,
) -> Matching:
    """Match whole scans as they are stored, cropped to the voxels that are not background.

    Args:
        prediction: mask (X, Y, Z); everything above 0 counts.
        reference: 1 fracture, ``ignore_index`` ignored (X, Y, Z).
        spacing: size of a voxel (mm).
        ignore_index: label of ignored voxels in the reference.
        vertebrae: see ``match``.
        rows: see ``match``.
        probability: see ``match``.
    """
    box = bounding_box(prediction, reference, *([] if vertebrae is None else [vertebrae]))
    labels = reference[box]
    valid = labels != ignore_index
    vertebrae, probability = (None if array is None else array[box] for array in (vertebrae, probability))
    predicted, fractured = prediction[box] > 0, labels == 1
    found = predicted & valid & ~_rims(predicted, fractured, valid, spacing)
    voxel_ml = float(np.prod(spacing)) / 1000
    return match(found, fractured, voxel_ml, vertebrae, rows, valid, probability)


def _rims(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], valid: NDArray[np.bool_], spacing: Sequence[float] | NDArray
) -> NDArray[np.bool_]:
    """Remains of findings around ignored voxels: components of valid voxels within ``RIM_MM`` of ignored ones of a prediction.

    A component with a voxel in a reference fracture is none of them.
    """
    ignored = prediction & ~valid
    if not ignored.any():
        return np.zeros_like(prediction)
    reach = max(RIM_MM, *spacing)  # of thick slices the next one
    margins = [int(np.ceil(reach / s)) for s in spacing]
    box = tuple(slice(max(b.start - m, 0), b.stop + m) for b, m in zip(bounding_box(ignored), margins, strict=True))
    near = distance_transform_edt(~ignored[box], sampling=spacing) <= reach
    components, count = label_components(prediction & valid)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    dropped = np.bincount(components[box][near], minlength=count + 1) == sizes
    dropped[0] = False
    dropped[np.unique(components[reference])] = False
    return np.asarray(dropped[components])
