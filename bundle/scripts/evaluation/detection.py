# SPDX-License-Identifier: Apache-2.0
"""Which fractures, vertebrae and patients were found: matching of one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.vertebrae import LEVELS
from .overlap import union_box

MIN_FRACTURE_FRACTION = (
    0.5  # share of the known voxels of a vertebra that must be marked for the vertebra to count as fractured
)


@dataclass
class Component:
    """A connected part of a prediction.

    Attributes:
        volume_ml: its volume.
        confidence: highest probability in it; its volume in ml where there are no probabilities.
        overlap: share of it that lies in reference fractures.
    """

    volume_ml: float
    confidence: float
    overlap: float


@dataclass
class Target:
    """A reference fracture, or with instances any vertebra.

    Attributes:
        name: level, or the number of the component.
        fractured: whether the reference marks it.
        grade: Genant grade as the table writes it, "" when there is none.
        shape: Genant shape as the table writes it, "" when there is none.
        volume_ml: its volume without unknown voxels.
        pieces: share of it that each component covers, by index of the component.
    """

    name: str
    fractured: bool
    grade: str
    shape: str
    volume_ml: float
    pieces: dict[int, float] = field(default_factory=dict)

    def coverage(self, components: Sequence[Component], threshold: float = -np.inf) -> float:
        """Share covered by components of at least a confidence."""
        return sum(s for k, s in self.pieces.items() if components[k].confidence >= threshold)

    def iou(self, components: Sequence[Component]) -> float:
        """Intersection over union with the findings that touch it.

        What a finding marks in another fracture is not held against it; what it marks outside every fracture is.
        """
        covered = self.coverage(components) * self.volume_ml
        touching = [components[k] for k in self.pieces]
        if self.fractured:
            beside = sum(c.volume_ml * (1 - c.overlap) for c in touching)
        else:
            beside = sum(c.volume_ml for c in touching) - covered
        return covered / (self.volume_ml + beside)

    def found_at(self, components: Sequence[Component], min_overlap: float) -> float:
        """Highest confidence threshold at which the target is still found; minus infinity when it never is."""
        covered = 0.0
        for k in sorted(self.pieces, key=lambda k: -components[k].confidence):
            covered += self.pieces[k]
            if covered >= min_overlap:
                return components[k].confidence
        return -np.inf


@dataclass
class Detections:
    """Result of one case."""

    components: list[Component]
    targets: list[Target]
    instances: bool


def connected(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Label the connected parts of a mask; voxels that share a corner are connected."""
    from scipy.ndimage import generate_binary_structure, label

    return label(mask, generate_binary_structure(mask.ndim, mask.ndim), output=np.int32)


def match(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    voxel_ml: float,
    vertebrae: NDArray[np.uint8] | None = None,
    rows: Mapping[int, Mapping[str, str]] | None = None,
    known: NDArray[np.bool_] | None = None,
    probability: NDArray | None = None,
) -> Detections:
    """Match the components of a prediction with reference fractures.

    With vertebra instances the targets are the vertebrae, and a component that covers two of them serves both; without, they are
    the connected parts of the reference.

    Args:
        prediction: mask, unknown voxels taken out.
        reference: mask, unknown voxels taken out.
        voxel_ml: volume of a voxel in ml.
        vertebrae: instances in VerSe's labels on the same grid, or None.
        rows: row of ``vertebrae.csv`` by label, for grade and shape.
        known: False where nobody knows; a vertebra of which less than half is known is no target.
        probability: probability of a fracture per voxel, or None.
    """
    from scipy.ndimage import find_objects

    box = union_box(prediction, reference, *([] if vertebrae is None else [vertebrae > 0]))
    if any(part.start == part.stop for part in box):
        return Detections([], [], vertebrae is not None)
    prediction, reference = prediction[box], reference[box]
    vertebrae = None if vertebrae is None else vertebrae[box]
    known = None if known is None else known[box]
    probability = None if probability is None else probability[box]
    parts, number = connected(prediction)
    sizes = np.bincount(parts.ravel(), minlength=number + 1)
    inside = np.bincount(parts[reference], minlength=number + 1)
    confidence = sizes * voxel_ml
    if probability is not None and number:
        from scipy.ndimage import maximum

        confidence = np.concatenate([[0.0], np.atleast_1d(maximum(probability, parts, np.arange(1, number + 1)))])
    components = [
        Component(sizes[k] * voxel_ml, float(confidence[k]), inside[k] / sizes[k]) for k in range(1, number + 1)
    ]
    targets: list[Target] = []

    def add(
        name: str, place: tuple[slice, ...], where: NDArray[np.bool_], fractured: bool, row: Mapping[str, str]
    ) -> None:
        hits = np.bincount(parts[place][where], minlength=number + 1)
        size = int(hits.sum())
        pieces = {k - 1: float(hits[k] / size) for k in range(1, number + 1) if hits[k]}
        targets.append(
            Target(name, fractured, str(row.get("grade", "")), str(row.get("shape", "")), size * voxel_ml, pieces)
        )

    if vertebrae is None:
        regions, _ = connected(reference)
        for k, place in enumerate(find_objects(regions), 1):
            add(str(k), place, regions[place] == k, True, {})
        return Detections(components, targets, False)
    for label, place in enumerate(find_objects(vertebrae), 1):
        if place is None or label not in LEVELS or label == 26:
            continue
        where = vertebrae[place] == label
        total = int(np.count_nonzero(where))
        if known is not None:
            where &= known[place]
        seen = int(np.count_nonzero(where))
        if seen < MIN_FRACTURE_FRACTION * total:
            continue
        fractured = np.count_nonzero(reference[place] & where) >= MIN_FRACTURE_FRACTION * seen
        add(LEVELS[label], place, where, bool(fractured), (rows or {}).get(label, {}))
    return Detections(components, targets, True)


def match_case(
    prediction: NDArray,
    reference: NDArray,
    voxel_ml: float,
    ignore_index: int = 255,
    vertebrae: NDArray[np.uint8] | None = None,
    rows: Mapping[int, Mapping[str, str]] | None = None,
    probability: NDArray | None = None,
) -> Detections:
    """Match whole scans as they are stored; only the box with something in it is looked at.

    Args:
        prediction: everything above 0 counts.
        reference: 1 fracture, ``ignore_index`` unknown.
        voxel_ml: volume of a voxel in ml.
        ignore_index: mark of unknown voxels in the reference.
        vertebrae: see ``match``.
        rows: see ``match``.
        probability: see ``match``.
    """
    box = union_box(prediction, reference, *([] if vertebrae is None else [vertebrae]))
    marks = reference[box]
    known = marks != ignore_index
    return match(
        (prediction[box] > 0) & known,
        marks == 1,
        voxel_ml,
        None if vertebrae is None else vertebrae[box],
        rows,
        known,
        None if probability is None else probability[box],
    )
