# SPDX-License-Identifier: Apache-2.0
"""Vertebra instances of a prediction matched with those of a reference: missed, false, and DSC of each vertebra.

An instance and a vertebra match when their IoU is above 0.5, which no two can reach for the same vertebra (panoptic segmentation,
Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963). Values of the prediction are numbers alone, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import spacing_of
from ..core.vertebrae import LABELS, LEVELS

MIN_IOU = 0.5
PARTIAL_RULES = ("leave_out", "count")
# Area on the end of a scan from which a vertebra is cut: in nine real masks, complete vertebrae at the end of a tight crop have up
# to 93 mm2 (tips of processes), cut ones 252 mm2 and more.
MIN_CUT_MM2 = 150.0
MIN_DEPTH_MM = 10.0  # volume by that area, below which a slice of a vertebra is cut, however small
INSTANCE_RULES = (
    "Instance and vertebra match above an IoU of 0.5. S1 is left out. Left out as well, unless partial vertebrae are counted: "
    "vertebrae that the upper or lower end of the scan cuts, and instances without a match of which less than half lies in counted "
    "vertebrae, when they touch the border of the scan, lie above or below all counted vertebrae, or at least half in ignored "
    "voxels or in vertebrae that are not counted. A reference need not label such vertebrae."
)
INSTANCE_DEFINITIONS = {
    "precision": "matched instances / all predicted instances",
    "recall": "matched vertebrae / all reference vertebrae",
    "f1": "2 TP / (2 TP + FP + FN), also named recognition quality",
    "segmentation quality": "mean IoU of matched vertebrae",
    "panoptic quality": "sum of the IoU of matched vertebrae / (TP + FP / 2 + FN / 2) = segmentation quality x f1",
    "DSC per matched vertebra": "mean DSC of vertebrae that have an instance",
    "DSC per reference vertebra": "mean DSC of all vertebrae; 0 for a missed one",
    "DSC of all vertebrae in one mask": "mean over scans, regardless of labels; voxels of what is left out do not count",
    "instances": INSTANCE_RULES,
}


@dataclass(frozen=True)
class InstancePair:
    """Reference vertebra and the instance that matches it.

    Attributes:
        label: label of the vertebra in the reference.
        predicted: value of the instance in the prediction; 0 for a missed vertebra.
        iou: intersection over union; 0 for a missed vertebra.
        dice: DSC; 0 for a missed vertebra.
        cut: True where the upper or lower end of the scan cuts the vertebra.
        counted: False for a vertebra that instance precision and recall leave out.
    """

    label: int
    predicted: int
    iou: float
    dice: float
    cut: bool = False
    counted: bool = True


@dataclass
class InstanceMatching:
    """Instances of one case.

    Attributes:
        pairs: one per reference vertebra.
        false_positives: instances that match no vertebra.
        left_out: instances without a match that are not counted, with the reason.
        together_dice: DSC of counted vertebrae and instances as one mask each; NaN where there is no voxel of either.
    """

    pairs: list[InstancePair]
    false_positives: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    together_dice: float = float("nan")

    @property
    def counted(self) -> list[InstancePair]:
        """Pairs that precision, recall and DSC count."""
        return [p for p in self.pairs if p.counted]

    @property
    def counts(self) -> tuple[int, int, int]:
        """True positives, false positives, missed vertebrae."""
        matched = sum(p.predicted > 0 for p in self.counted)
        return matched, len(self.false_positives), len(self.counted) - matched

    def pair(self, label: int) -> InstancePair | None:
        """Pair of a label of the reference."""
        return next((p for p in self.pairs if p.label == label), None)


def overlaps(reference: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers of voxels (256, 256) by value of the reference and of the prediction, both (X, Y, Z); 0 where both are 0."""
    counts = np.zeros(65536, np.int64)
    axis = int(np.argmax(np.abs(reference.strides)))
    # Slab by slab, as counting takes eight bytes a voxel.
    for one, other in zip(np.moveaxis(reference, axis, 0), np.moveaxis(predicted, axis, 0), strict=True):
        labelled = (one > 0) | (other > 0)
        if labelled.any():
            counts += np.bincount(one[labelled].astype(np.int64) * 256 + other[labelled], minlength=65536)
    return counts.reshape(256, 256)


def _superior(affine: NDArray) -> tuple[int, bool]:
    """Array axis along the body, and True where its index rises towards the head."""
    codes = nib.aff2axcodes(affine)
    axis = next((k for k, code in enumerate(codes) if code in ("S", "I")), 2)
    return axis, codes[axis] != "I"


def _count(labels: NDArray) -> NDArray[np.int64]:
    """Number of voxels of every value 0 to 255, without those of 0."""
    return np.bincount(labels[labels > 0], minlength=256)


def _end_areas(labels: NDArray, affine: NDArray) -> NDArray[np.float64]:
    """Largest area (mm2) of every value 0 to 255 on the upper or the lower end of the scan."""
    axis, _ = _superior(affine)
    pixel = float(np.prod(np.delete(spacing_of(affine), axis)))
    return pixel * np.max([_count(labels.take(k, axis=axis)) for k in (0, -1)], axis=0)


def _on_border(labels: NDArray) -> set[int]:
    """Values on any face of the volume; an axis of a single voxel has none."""
    faces = [labels.take(k, axis=axis) for axis in range(3) if labels.shape[axis] > 1 for k in (0, -1)]
    return set(np.unique(np.concatenate([np.unique(face) for face in faces])).tolist()) if faces else set()


def _heights(labels: NDArray, affine: NDArray) -> NDArray[np.float64]:
    """Mean position of every value 0 to 255 along the body, in voxels, rising towards the head; NaN for an absent one."""
    axis, rising = _superior(affine)
    counts = np.stack([_count(slab) for slab in np.moveaxis(labels, axis, 0)])
    position = np.arange(len(counts), dtype=float) * (1 if rising else -1)
    with np.errstate(invalid="ignore"):
        return position @ counts / counts.sum(axis=0)


def match_instances(
    predicted: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    affine: NDArray | None = None,
    ignored: NDArray[np.bool_] | None = None,
    partial: str = "leave_out",
    min_iou: float = MIN_IOU,
) -> InstanceMatching:
    """Match predicted instances with reference vertebrae.

    Args:
        predicted: instances (X, Y, Z), any numbering; 0 is the background.
        reference: vertebrae (X, Y, Z) in VerSe's labels; S1 and values that are no vertebra are not counted.
        affine: (4, 4) of the grid (R, A, S, mm); None for voxels of 1 mm whose last axis rises towards the head.
        ignored: True where the reference is unknown (X, Y, Z), or None.
        partial: treatment of vertebrae that the border of the scan cuts or that the reference need not label, see
            ``INSTANCE_RULES``: leave_out or count.
        min_iou: IoU above which instance and vertebra match; at least 0.5, so that no vertebra matches twice.

    Raises:
        ValueError: for different shapes, an unknown rule, or ``min_iou`` outside 0.5 to 1.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"instances have shape {predicted.shape} and reference {reference.shape}; resample them to one grid")
    if partial not in PARTIAL_RULES:
        raise ValueError(f"partial={partial!r}: must be one of {', '.join(PARTIAL_RULES)}")
    if not 0.5 <= min_iou < 1:
        raise ValueError(f"min_iou={min_iou!r}: must be at least 0.5 and below 1")
    affine = np.eye(4) if affine is None else np.asarray(affine, float)
    table = overlaps(reference, predicted)
    sizes, volumes = table.sum(axis=0), table.sum(axis=1)
    labels = [v for v in np.flatnonzero(volumes) if v in LEVELS and v != LABELS["S1"]]
    areas, voxel_mm3 = _end_areas(reference, affine), abs(float(np.linalg.det(affine[:3, :3])))
    cut = set(np.flatnonzero((areas >= MIN_CUT_MM2) | (volumes * voxel_mm3 < MIN_DEPTH_MM * areas)).tolist())
    pairs = []
    for label in labels:
        union = np.maximum(volumes[label] + sizes - table[label], 1)
        iou = np.where(np.arange(256) > 0, table[label] / union, 0.0)
        best = int(iou.argmax())
        value = float(iou[best]) if iou[best] > min_iou else 0.0
        pair = InstancePair(int(label), best if value else 0, value, 2 * value / (1 + value), label in cut)
        pairs.append(replace(pair, counted=partial == "count" or not pair.cut))
    matching = InstanceMatching(pairs)
    unmatched = [int(p) for p in np.flatnonzero(sizes) if p and p not in {pair.predicted for pair in pairs}]
    counted = [pair.label for pair in matching.counted]
    reasons = _reasons(unmatched, counted, table, predicted, reference, affine, ignored) if partial == "leave_out" else {}
    sacrum = {p for p in unmatched if 2 * table[LABELS["S1"], p] >= sizes[p]}
    matching.left_out = {p: "S1" if p in sacrum else reasons[p] for p in unmatched if p in sacrum or p in reasons}
    matching.false_positives = [p for p in unmatched if p not in matching.left_out]
    uncounted = {pair.predicted for pair in pairs if not pair.counted}
    outside = [int(p) for p in np.flatnonzero(sizes) if p and p not in matching.left_out and p not in uncounted]
    unknown = np.zeros(256, np.int64) if ignored is None else np.bincount(predicted[ignored & (reference == 0)], minlength=256)
    matching.together_dice = _together_dice(table, counted, outside, unknown)
    return matching


def _together_dice(table: NDArray[np.int64], labels: Sequence[int], instances: Sequence[int], unknown: NDArray[np.int64]) -> float:
    """DSC of all counted vertebrae and all instances, each as one mask.

    Args:
        table: numbers of voxels (256, 256), see ``overlaps``.
        labels: counted vertebrae.
        instances: instances whose voxels outside every vertebra are false; those of the others do not count.
        unknown: number of voxels (256,) of every instance in what is unknown and no vertebra of the reference.
    """
    both = int(table[list(labels), 1:].sum())
    false = int((table[0, list(instances)] - unknown[list(instances)]).sum())
    total = 2 * both + false + int(table[list(labels), 0].sum())
    return 2 * both / total if total else float("nan")


def _reasons(
    unmatched: Sequence[int],
    labels: Sequence[int],
    table: NDArray[np.int64],
    predicted: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    affine: NDArray,
    ignored: NDArray[np.bool_] | None,
) -> dict[int, str]:
    """Reason by instance without a match that is not counted, see ``INSTANCE_RULES``; ``labels`` are the counted vertebrae."""
    sizes = table.sum(axis=0)
    others = [v for v in range(1, 256) if v not in labels]
    unknown = np.zeros(256, np.int64)
    if ignored is not None:
        unknown = np.bincount(predicted[ignored & ~np.isin(reference, labels)], minlength=256)
    border, heights = _on_border(predicted), _heights(predicted, affine)
    centres = _heights(reference, affine)[list(labels)] if labels else np.array([np.nan])
    reasons = {}
    for p in unmatched:
        if 2 * table[list(labels), p].sum() >= sizes[p]:
            continue  # a part, a duplicate or a fusion of labelled vertebrae
        if 2 * table[others, p].sum() >= sizes[p]:
            reasons[p] = "vertebra that is not counted"
        elif 2 * unknown[p] >= sizes[p]:
            reasons[p] = "ignored voxels"
        elif p in border:
            reasons[p] = "border of the scan"
        elif labels and not centres.min() <= heights[p] <= centres.max():
            reasons[p] = "beyond the reference vertebrae"
    return reasons
