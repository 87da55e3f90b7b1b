# SPDX-License-Identifier: Apache-2.0
"""Decisions and instances of one case from the files of a reference and of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import spacing_of
from ..postprocessing.vertebra_record import VertebraRecord
from .inference_output import TABLE, read_instances, records_by_value
from .instances import InstanceMatching, match_instances
from .pairs import ScoringCase, on_reference_grid
from .vertebra_decisions import MIN_MARKED, CaseVertebrae, decide


def _by_label(
    name: str, records: Sequence[VertebraRecord], matching: InstanceMatching | None, mask: NDArray | None, source: Path
) -> dict[int, VertebraRecord]:
    """Rows of inference by label of the reference: through the instances, else by the labels of a given mask of vertebrae.

    Raises:
        ValueError: when rows have neither an instance mask nor labels.
    """
    if matching is not None and mask is not None:
        by_value = records_by_value(records, mask, source)
        return {p.label: by_value[p.predicted] for p in matching.pairs if p.predicted}
    unnamed = [r.vertebra for r in records if r.label is None or r.level_source != "mask"]
    if unnamed:
        raise ValueError(
            f"{source}: {TABLE} has vertebra {unnamed[0]} of {name} without a label of a mask, and there is no "
            f"{name}_vertebrae.nii.gz; name the folder of the instances with --predicted_vertebrae"
        )
    return {r.label: r for r in records if r.label is not None}


def decide_case(
    case: str,
    patient: str,
    vertebrae: NDArray[np.uint8],
    reference: NDArray,
    affine: NDArray,
    prediction: NDArray | None,
    rows: Mapping[int, Mapping[str, str]],
    instances: NDArray[np.uint8] | None = None,
    records: Sequence[VertebraRecord] | None = None,
    probability: NDArray | None = None,
    ignore_index: int = 255,
    partial: str = "leave_out",
    min_marked: float = MIN_MARKED,
    source: Path | None = None,
) -> CaseVertebrae:
    """Decisions and instances of one case from arrays (X, Y, Z) on the grid of the reference.

    Args:
        case: name of the case.
        patient: name of the patient.
        vertebrae: vertebrae of the reference in VerSe's labels.
        reference: 1 fracture, ``ignore_index`` ignored.
        affine: (4, 4) of the grid (R, A, S, mm).
        prediction: mask of fractures, or None.
        rows: rows of ``vertebrae.csv`` of the reference by label.
        instances: instances of the prediction, or None.
        records: rows of inference, or None for another tool.
        probability: probability map, or None.
        ignore_index: label of ignored voxels in the reference.
        partial: see ``match_instances``.
        min_marked: see ``decide``.
        source: file or folder of the prediction, for messages.

    Raises:
        ValueError: for instances that do not fit the rows.
    """
    matching = None
    if instances is not None:
        matching = match_instances(instances, vertebrae, affine, reference == ignore_index, partial)
    by_label = None if records is None else _by_label(case, records, matching, instances, source or Path(case))
    # The mean of a map over a vertebra is no probability of this inference, which has rows of its own.
    probability = probability if records is None else None
    voxel_ml = float(np.prod(spacing_of(affine))) / 1000
    decisions = decide(
        case, patient, vertebrae, reference, prediction, voxel_ml, rows, matching, by_label, probability, ignore_index, min_marked
    )
    return CaseVertebrae(decisions, matching)


def case_vertebrae(
    case: ScoringCase,
    reference: nib.Nifti1Image,
    vertebrae: NDArray[np.uint8],
    prediction: NDArray | None,
    probability: NDArray | None = None,
    ignore_index: int = 255,
    resample: bool = False,
    partial: str = "leave_out",
    min_marked: float = MIN_MARKED,
) -> CaseVertebrae:
    """Decisions and instances of one case from its files.

    Args:
        case: files and rows.
        reference: mask of the reference, 1 fracture, ``ignore_index`` ignored.
        vertebrae: vertebrae of the reference (X, Y, Z) in VerSe's labels.
        prediction: mask of fractures (X, Y, Z), or None.
        probability: probability map (X, Y, Z), or None.
        ignore_index: label of ignored voxels in the reference.
        resample: resample instances that have a different grid to the nearest voxel.
        partial: see ``match_instances``.
        min_marked: see ``decide``.

    Raises:
        ValueError: for instances that cannot be read, that have a different grid, or that do not fit the table.
    """
    mask = None
    if case.instances is not None:
        mask = on_reference_grid(read_instances(case.instances), reference, case.instances, resample).astype(np.uint8)
    return decide_case(
        case.case,
        case.patient,
        vertebrae,
        np.asarray(reference.dataobj),
        reference.affine,
        prediction,
        case.rows,
        mask,
        case.records,
        probability,
        ignore_index,
        partial,
        min_marked,
        case.instances or case.prediction.parent,
    )
