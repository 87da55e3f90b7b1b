# SPDX-License-Identifier: Apache-2.0
"""One decision per reference vertebra: fractured or not in the reference, and in the prediction of any tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ..core.vertebrae import LABELS, LEVELS, region_of
from ..postprocessing.vertebra_record import VertebraRecord
from .detection import MIN_FRACTURE_FRACTION
from .instances import InstanceMatching, InstancePair

NAN = float("nan")
MIN_MARKED = 0.5  # fraction of a vertebra that a mask of fractures must mark, for tools without a decision of their own
DECISION_RULES = (
    "Every reference vertebra but S1. Fractured: column fractured of vertebrae.csv, else a grade of 1 or more, else at least half "
    "of it marked in the reference; without any, or with more than half of it ignored, it is left out. Flagged: the decision of "
    "the instance that matches it, from vertebrae.csv of inference; for other tools at least half of it marked. A missed vertebra, "
    "without an instance, is not flagged."
)


@dataclass
class VertebraDecision:
    """Reference vertebra with the decision of a prediction.

    Attributes:
        case: name of the case.
        patient: name of the patient.
        label: label of VerSe.
        fractured: class in the reference; None for unknown.
        grade: Genant grade in the reference, or None.
        shape: Genant shape in the reference, or "".
        volume_ml: volume of the vertebra without ignored voxels (ml).
        marked: fraction of it that the mask of fractures marks.
        flagged: True for a fracture by the prediction.
        probability: probability of a fracture; NaN for unknown.
        missed: True where instances are known and none matches.
        pair: match with an instance, or None where instances are not known.
        record: row of inference, or None.
        reference: row of the reference table; empty without one.
    """

    case: str
    patient: str
    label: int
    fractured: bool | None
    grade: int | None = None
    shape: str = ""
    volume_ml: float = NAN
    marked: float = NAN
    flagged: bool = False
    probability: float = NAN
    missed: bool = False
    pair: InstancePair | None = None
    record: VertebraRecord | None = None
    reference: Mapping[str, str] = field(default_factory=dict)

    @property
    def level(self) -> str:
        """Level such as "T12"."""
        return LEVELS[self.label]

    @property
    def region(self) -> str:
        """Region: cervical, thoracic or lumbar."""
        return region_of(self.level)

    @property
    def severe(self) -> bool | None:
        """True for grade 2 or 3, False for grade 0 or 1 or an intact vertebra; None for unknown."""
        if self.grade is not None:
            return self.grade >= 2
        return False if self.fractured is False else None


@dataclass
class CaseVertebrae:
    """Vertebrae of one case.

    Attributes:
        decisions: one per reference vertebra, from head to feet.
        instances: result of ``match_instances``, or None where the prediction has no instances.
    """

    decisions: list[VertebraDecision]
    instances: InstanceMatching | None = None


def _grade(row: Mapping[str, str]) -> int | None:
    text = str(row.get("grade") or "").strip()
    try:
        grade = int(float(text)) if text else None
    except ValueError:  # "x", foreign material
        return None
    return grade if grade in (0, 1, 2, 3) else None


def reference_class(row: Mapping[str, str], labelled: float) -> bool | None:
    """Class of a reference vertebra, see ``DECISION_RULES``.

    Args:
        row: row of ``vertebrae.csv`` of the reference; empty without one.
        labelled: fraction of the valid voxels that the reference mask marks as fractured; NaN without a mask.
    """
    text = str(row.get("fractured") or "").strip()
    if text:
        try:
            return float(text.replace(",", ".")) > 0
        except ValueError:
            raise ValueError(
                f"{row.get('case', 'a case')}: fractured={text!r} in its table of vertebrae; must be 1, 0 or blank"
            ) from None
    if (grade := _grade(row)) is not None:
        return grade > 0
    return None if np.isnan(labelled) else bool(labelled >= MIN_FRACTURE_FRACTION)


def decide(
    case: str,
    patient: str,
    vertebrae: NDArray[np.uint8],
    reference: NDArray | None,
    prediction: NDArray | None,
    voxel_ml: float,
    rows: Mapping[int, Mapping[str, str]] | None = None,
    matching: InstanceMatching | None = None,
    records: Mapping[int, VertebraRecord] | None = None,
    probability: NDArray | None = None,
    ignore_index: int = 255,
    min_marked: float = MIN_MARKED,
) -> list[VertebraDecision]:
    """Decisions of one case, see ``DECISION_RULES``; all arrays are (X, Y, Z) on the grid of the reference.

    Args:
        case: name of the case.
        patient: name of the patient.
        vertebrae: vertebrae of the reference in VerSe's labels.
        reference: 1 fracture, ``ignore_index`` ignored; None where the table alone has the classes.
        prediction: mask of fractures, everything above 0 counts; None for a tool without one.
        voxel_ml: volume of a voxel (ml).
        rows: rows of ``vertebrae.csv`` of the reference by label.
        matching: instances of the prediction, or None.
        records: rows of inference by label of the reference; None for a tool without. A label without a row is not flagged.
        probability: map of probabilities, whose mean over the vertebra is its probability; ``records`` come first.
        ignore_index: label of ignored voxels in the reference.
        min_marked: fraction of a vertebra that must be marked where there are no ``records``.
    """
    decisions = []
    boxes = find_objects(vertebrae)
    order = sorted(range(1, len(boxes) + 1), key=lambda v: 19.5 if v == LABELS["T13"] else v)
    for label in order:
        box = boxes[label - 1]
        if box is None or label not in LEVELS or label == LABELS["S1"]:
            continue
        mask = vertebrae[box] == label
        total = int(np.count_nonzero(mask))
        if reference is not None:
            mask &= reference[box] != ignore_index
        valid, row = int(np.count_nonzero(mask)), (rows or {}).get(label, {})
        labelled = np.count_nonzero(reference[box][mask] == 1) / valid if reference is not None and valid else NAN
        known = valid >= MIN_FRACTURE_FRACTION * total
        decision = VertebraDecision(
            case,
            patient,
            label,
            reference_class(row, labelled) if known else None,
            _grade(row) if known else None,
            str(row.get("shape") or ""),
            valid * voxel_ml,
            pair=None if matching is None else matching.pair(label),
            record=None if records is None else records.get(label),
            reference=row,
        )
        if prediction is not None and valid:
            decision.marked = float(np.count_nonzero(prediction[box][mask])) / valid
        decision.missed = decision.pair is not None and not decision.pair.predicted
        if records is not None:
            decision.missed |= decision.record is None
            decision.flagged = decision.record is not None and decision.record.fractured and not decision.missed
            decision.probability = NAN if decision.record is None or decision.missed else decision.record.fracture_probability
        elif not decision.missed:
            decision.flagged = decision.marked >= min_marked
            if probability is not None and valid:
                decision.probability = float(np.mean(probability[box][mask]))
        decisions.append(decision)
    return decisions
