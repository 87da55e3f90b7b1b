# SPDX-License-Identifier: Apache-2.0
"""``score``: masks of any tool against references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial, wraps
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from ..core.errors import InputError, first_line
from ..core.geometry import spacing_of
from ..core.optional_packages import import_monai_lean
from ..core.provenance import file_hash
from ..io.formats import read_volume
from ..io.image_checks import volume_shape
from .aggregation import CaseResult, Summary, aggregate
from .case_vertebrae import case_vertebrae
from .detection import match_case
from .gallery import draw_worst
from .inference_output import read_instances
from .instances import PARTIAL_RULES
from .overlap import EMPTY_RULES, case_metrics
from .pairs import ScoringCase, find_cases, named_errors, on_reference_grid, read_pair
from .report import worst_cases, write_evaluation_report
from .tables import case_rows, markdown, not_scored, write_tables
from .vertebra_tables import refuse_foreign_table


@dataclass
class ScoreResult:
    """Result of ``score``; its text is the summary as Markdown.

    Attributes:
        rows: metrics of every case, as in ``cases.csv``.
        summary: estimates with 95 % intervals by section and name, such as ``summary.sections["cases: all"]["dice"].low``, and the
            FROC curve.
        cases: metrics, detections and targets of every case.
        problems: one line per case that could not be scored.
        min_overlap: fraction that defines a detected fracture and a true positive.
        out: folder of the tables and of the report, or None.
    """

    rows: list[dict[str, object]]
    summary: Summary
    cases: list[CaseResult]
    problems: list[str]
    min_overlap: float
    out: Path | None = None

    def __str__(self) -> str:
        note = not_scored(self.problems, len(self.cases)) if self.problems else ""
        return markdown(self.summary, self.min_overlap, note)


def score_case(
    case: ScoringCase,
    fractured: Sequence[int] | None = None,
    predicted: Sequence[int] | None = None,
    ignore_index: int = 255,
    tolerance_mm: float = 1.0,
    empty_reference: str = "score",
    resample: bool = False,
    partial_vertebrae: str = "leave_out",
    min_overlap: float = 0.5,
) -> CaseResult | str:
    """Score one case.

    Args:
        case: files.
        fractured: labels of fractures in the reference, others are background; None for the only label.
        predicted: labels of fractures in the prediction, others are background; None for the only label.
        ignore_index: label of ignored voxels in the reference.
        tolerance_mm: tolerance in mm of the normalised surface dice.
        empty_reference: one of ``EMPTY_RULES``.
        resample: resample a prediction that has a different grid to the nearest voxel.
        partial_vertebrae: see ``match_instances``.
        min_overlap: fraction of a vertebra that must be marked, for predictions without decisions of their own.

    Returns:
        Result, or one line about files that cannot be read or compared.
    """
    try:
        image, prediction = read_pair(case, fractured, predicted, ignore_index, resample)
        reference = np.asarray(image.dataobj)
        spacing = spacing_of(image.affine)
        metrics = case_metrics(prediction, reference, spacing, tolerance_mm, ignore_index, empty_reference)
        vertebrae = probability = None
        if case.vertebrae is not None:
            with named_errors(case.vertebrae):
                instances = read_instances(case.vertebrae)
            vertebrae = on_reference_grid(instances, image, case.vertebrae, resample)
        if case.probability is not None:
            with named_errors(case.probability):
                values = read_volume(case.probability)
                array = np.asanyarray(values.dataobj)
            stored = nib.Nifti1Image(array.reshape(volume_shape(array.shape)), values.affine)
            probability = on_reference_grid(stored, image, case.probability, resample, order=1)
            if not (np.isfinite(probability).all() and probability.min() >= 0 and probability.max() <= 1):
                raise ValueError(f"{case.probability}: contains NaN or values outside 0 to 1; must contain probabilities")
        matching = match_case(prediction, reference, spacing, ignore_index, vertebrae, case.rows, probability)
        decided = None
        if vertebrae is not None:
            decided = case_vertebrae(
                case, image, vertebrae, prediction, probability, ignore_index, resample, partial_vertebrae, min_overlap
            )
        return CaseResult(case.case, case.patient, metrics, matching, decided)
    except Exception as error:
        line = first_line(error)
        folders = (str(case.prediction.parent), str(case.reference.parent))
        return line if any(folder in line for folder in folders) else f"{case.prediction}: {line}"


def _results(cases: Sequence[ScoringCase], function: partial, workers: int) -> Iterator[CaseResult | str]:
    if workers < 2:
        yield from map(function, cases)
        return
    # Spawned processes, because a fork after torch has started its threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=import_monai_lean) as pool:
        yield from pool.map(function, cases)


def _check(min_overlap: float, tolerance_mm: float, empty_reference: str, ignore_index: int, partial: str) -> None:
    if not 0 < min_overlap <= 1:
        raise InputError(f"min_overlap={min_overlap!r}: must be a fraction above 0 and up to 1")
    if tolerance_mm < 0 or not np.isfinite(tolerance_mm):
        raise InputError(f"tolerance_mm={tolerance_mm!r}: must be a distance in mm, 0 or more")
    if empty_reference not in EMPTY_RULES:
        raise InputError(f"empty_reference={empty_reference!r}: must be one of {', '.join(EMPTY_RULES)}")
    if partial not in PARTIAL_RULES:
        raise InputError(f"partial_vertebrae={partial!r}: must be one of {', '.join(PARTIAL_RULES)}")
    if ignore_index == 0:
        raise InputError("ignore_index=0: is the background; must be the label of ignored voxels, or -1 for none")


def score(
    predictions: str,
    references: str,
    out: str | None = None,
    vertebrae: str | None = None,
    table: str | None = None,
    probabilities: str | None = None,
    section: str = "testing",
    patient: str | None = None,
    fractured: Sequence[int] | int | None = None,
    predicted: Sequence[int] | int | None = None,
    ignore_index: int = 255,
    tolerance_mm: float = 1.0,
    min_overlap: float = 0.5,
    empty_reference: str = "score",
    resample: bool = False,
    samples: int = 2000,
    seed: int = 0,
    workers: int = 1,
    predicted_vertebrae: str | None = None,
    partial_vertebrae: str = "leave_out",
) -> ScoreResult:
    """Score masks of any tool against references.

    Writes cases.csv, fractures.csv, detections.csv, summary.json, summary.md, plots, overlays of the worst cases and report.html,
    which embeds all of it, into OUT. With vertebra instances of the references also vertebrae.csv, one decision per vertebra, and
    instances.csv where the predictions have instances. A pair that cannot be scored is reported and skipped; the summary counts
    such pairs, and the command ends with status 1.

    Args:
        predictions: folder of masks, or of one folder per case; names are compared without suffixes such as _fracture, _pred or
            _0000. In the output folder of inference, vertebrae.csv and NAME_vertebrae.nii.gz are read as well.
        references: folder of masks, or a datalist.json, which has patients, vertebrae and grades.
        out: folder to write to; without it, nothing is written.
        vertebrae: folder of vertebra instances of the references in VerSe's labels, for references in a folder.
        table: path of vertebrae.csv with grade and shape; by default the one in the folder of the references.
        probabilities: folder of probability maps, which rank the detections; without them, volume does. The mean over a vertebra
            is its probability where the predictions have none.
        section: section of the datalist.
        patient: pattern of the case names, such as "^[^_]+" or "(p*)_*", see `data folder`, for references in a folder.
        fractured: labels of fractures in the references, others are background; required if there are several labels.
        predicted: labels of fractures in the predictions, others are background; required if there are several labels.
        ignore_index: label of ignored voxels in the references.
        tolerance_mm: tolerance of the normalised surface dice in mm.
        min_overlap: fraction of a fracture that must be segmented for a detected fracture, and of a detection that must lie in
            fractures for a true positive.
        empty_reference: rule for a reference without a fracture: score (1 for an empty prediction, else 0) or exclude.
        resample: resample predictions to the grid of their reference (nearest voxel) instead of rejecting a different grid.
        samples: number of bootstrap resamples.
        seed: seed of the bootstrap.
        workers: number of processes.
        predicted_vertebrae: folder of the vertebra instances of the predictions, in any numbering, or folders of TotalSegmentator.
        partial_vertebrae: rule for instances at the border, which references need not label: leave_out or count.

    Returns:
        Rows of all cases and their summary with intervals.

    Raises:
        InputError: for an argument out of range, missing folders, and references of which none can be scored.
    """
    _check(min_overlap, tolerance_mm, empty_reference, ignore_index, partial_vertebrae)
    if out is not None:
        refuse_foreign_table(out)
    labels = [fractured] if isinstance(fractured, int) else fractured
    if labels is not None and ignore_index in labels:
        raise InputError(f"fractured={labels}: contains ignore_index={ignore_index}; set another --ignore_index, such as -1")
    cases, problems = find_cases(predictions, references, section, vertebrae, probabilities, table, patient, predicted_vertebrae)
    if predicted_vertebrae and not any(case.vertebrae for case in cases):
        raise InputError(
            f"{predicted_vertebrae}: no case has vertebra instances of the reference; add --vertebrae FOLDER, or use a datalist "
            "with vertebrae"
        )
    for line in problems:
        tqdm.write(f"not scored: {line}")
    reading: dict[str, Any] = {
        "fractured": labels,
        "predicted": [predicted] if isinstance(predicted, int) else predicted,
        "ignore_index": ignore_index,
        "resample": resample,
    }
    function = partial(
        score_case,
        **reading,
        tolerance_mm=tolerance_mm,
        empty_reference=empty_reference,
        partial_vertebrae=partial_vertebrae,
        min_overlap=min_overlap,
    )
    results: list[CaseResult] = []
    for result in tqdm(_results(cases, function, workers), total=len(cases), desc="scoring", unit="case"):
        if isinstance(result, str):
            problems.append(result)
            tqdm.write(f"not scored: {result}")
        else:
            results.append(result)
    if not results:
        raise InputError(problems[0] if problems else f"{references}: contains no case to score")
    if not any(r.fractured for r in results):
        tqdm.write(
            f"{references}: no reference contains a fracture; if {ignore_index} marks them, "
            f"use --fractured {ignore_index} --ignore_index -1"
        )
    summary = aggregate(results, min_overlap, samples, seed)
    rows = case_rows(results, min_overlap)
    if out is None:
        return ScoreResult(rows, summary, results, problems, min_overlap)
    provenance = {
        "predictions": str(Path(predictions).resolve()),
        "predictions_sha256": file_hash(predictions),
        "references": str(Path(references).resolve()),
        "references_sha256": file_hash(references),
        "tolerance_mm": tolerance_mm,
        "empty_reference": empty_reference,
        "confidence": "highest probability" if probabilities else "volume in ml",
        "partial_vertebrae": partial_vertebrae,
        "bootstrap": {"samples": samples, "seed": seed},
    }
    scored = {r.case for r in results}
    tables = [c.records or [] for c in cases if c.case in scored]
    given = sum(bool(rows) and all(r.level_source == "mask" for r in rows) for rows in tables)
    if given:
        provenance["given_vertebrae"] = given
    write_tables(out, results, summary, min_overlap, provenance, problems)
    files = {case.case: case for case in cases}
    pictures = draw_worst(worst_cases(results), files, Path(out) / "worst", partial(read_pair, **reading))
    write_evaluation_report(out, results, summary, min_overlap, provenance, problems, pictures)
    return ScoreResult(rows, summary, results, problems, min_overlap, Path(out))


@wraps(score)
def score_command(*args, **kwargs) -> str:
    """Command line of ``score``: text in place of the result, and status 1 where cases could not be scored."""
    result = score(*args, **kwargs)
    if result.problems:
        total = len(result.cases) + len(result.problems)
        written = f"; the others are in {result.out}" if result.out else ""
        if not result.out:
            print(result)  # scores of the others, which are written nowhere
        raise InputError(f"{len(result.problems)} of {total} cases were not scored, see above{written}")
    return str(result.out / "summary.md") if result.out else str(result)
