# SPDX-License-Identifier: Apache-2.0
"""``score``: masks on disk, from any tool, against references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import InputError
from ..core.provenance import file_hash
from .aggregation import CaseResult, summarise
from .detection import match_case
from .gallery import draw_worst
from .overlap import EMPTY_RULES, case_metrics
from .pairs import ScoringCase, find_jobs, on_grid, read_pair
from .report import worst_cases, write_report
from .tables import write_tables


def score_case(
    job: ScoringCase,
    fractured: Sequence[int] | None = None,
    predicted: Sequence[int] | None = None,
    ignore_index: int = 255,
    tolerance_mm: float = 1.0,
    empty_reference: str = "score",
    resample: bool = False,
) -> CaseResult | str:
    """Score one case; what cannot be read or compared gives one line instead.

    Args:
        job: files.
        fractured: values of the reference that are fractures; None: the only one there is.
        predicted: values of the prediction that are fractures; None: the only one there is.
        ignore_index: value of the reference that marks unknown voxels.
        tolerance_mm: of the normalised surface dice.
        empty_reference: one of ``EMPTY_RULES``.
        resample: whether a prediction on another grid is resampled to the nearest voxel.
    """
    try:
        reference_image, prediction = read_pair(job, fractured, predicted, ignore_index, resample)
        reference = np.asarray(reference_image.dataobj)
        spacing = np.linalg.norm(reference_image.affine[:3, :3], axis=0)
        metrics = case_metrics(prediction, reference, spacing, tolerance_mm, ignore_index, empty_reference)
        vertebrae = probability = None
        if job.vertebrae is not None:
            from ..data.datasets.conversion import integer_labels

            vertebrae = on_grid(integer_labels(job.vertebrae), reference_image, job.vertebrae, resample)
        if job.probability is not None:
            from ..io.formats import read_volume

            probability = on_grid(read_volume(job.probability), reference_image, job.probability, resample, order=1)
            if not (np.isfinite(probability).all() and probability.min() >= 0 and probability.max() <= 1):
                raise ValueError(f"{job.probability}: holds NaN or values outside 0 to 1; give probabilities")
        ml = float(np.prod(spacing)) / 1000
        detections = match_case(prediction, reference, ml, ignore_index, vertebrae, job.rows, probability)
        return CaseResult(job.case, job.patient, metrics, detections)
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return (
            line
            if str(job.prediction.parent) in line or str(job.reference.parent) in line
            else f"{job.prediction}: {line}"
        )


def _results(jobs: Sequence[ScoringCase], work: partial, workers: int) -> Iterator[CaseResult | str]:
    if workers < 2:
        yield from map(work, jobs)
        return
    # Fresh processes: a fork after torch has started its threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, jobs)


def score(
    predictions: str,
    references: str,
    out: str,
    vertebrae: str | None = None,
    table: str | None = None,
    probabilities: str | None = None,
    section: str = "testing",
    patient: str | None = None,
    fractured: Sequence[int] | int | None = None,
    predicted: Sequence[int] | int | None = None,
    ignore_index: int = 255,
    tolerance: float = 1.0,
    min_overlap: float = 0.5,
    empty_reference: str = "score",
    resample: bool = False,
    samples: int = 2000,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Score masks of any tool against references.

    Writes cases.csv, fractures.csv, findings.csv, summary.json, summary.md, plots, pictures of the worst cases and report.html,
    which holds all of it, into OUT. A pair that cannot be scored is named and left out; the others are scored, the summary says how
    many of how many, and the command ends with status 1.

    Args:
        predictions: folder of masks, or of a folder for each case; names are compared without endings such as _fracture,
            _pred or _0000.
        references: folder of masks, or a datalist.json, which brings patients, vertebrae and grades along.
        out: folder to write to.
        vertebrae: folder of vertebra instances in VerSe's labels, for references in a folder.
        table: vertebrae.csv with grade and shape; beside a datalist it is found by itself.
        probabilities: folder of probability maps; without them a finding is ranked by its volume.
        section: section of the datalist.
        patient: regular expression on the case name that gives the patient, for references in a folder.
        fractured: values of the references that are fractures; needed when there are several.
        predicted: values of the predictions that are fractures; needed when there are several.
        ignore_index: value of the references where nobody knows; such voxels are not judged.
        tolerance: of the normalised surface dice, in mm.
        min_overlap: share of a fracture that must be marked for it to be found, and of a finding that must lie in fractures.
        empty_reference: score (1 when the prediction is empty too, else 0) or exclude.
        resample: put predictions on the grid of their reference (nearest voxel) in place of refusing them.
        samples: bootstrap resamples.
        seed: of the bootstrap.
        workers: cases at a time.

    Returns:
        Path of summary.md.
    """
    if not 0 < min_overlap <= 1:
        raise InputError(f"min_overlap={min_overlap!r}: give a share above 0 and up to 1")
    if tolerance < 0 or not np.isfinite(tolerance):
        raise InputError(f"tolerance={tolerance!r}: give a distance in mm, 0 or more")
    if empty_reference not in EMPTY_RULES:
        raise InputError(f"empty_reference={empty_reference!r}: give one of {', '.join(EMPTY_RULES)}")
    if ignore_index == 0:
        raise InputError("ignore_index=0: that is the background; give the value of unknown voxels, or -1 for none")
    wanted = [fractured] if isinstance(fractured, int) else fractured
    if wanted is not None and ignore_index in wanted:
        raise InputError(
            f"fractured={wanted}: holds ignore_index={ignore_index}; give --ignore_index another value, such as -1"
        )
    jobs, problems = find_jobs(predictions, references, section, vertebrae, probabilities, table, patient)
    for line in problems:
        print(f"not scored: {line}")
    work = partial(
        score_case,
        fractured=wanted,
        predicted=[predicted] if isinstance(predicted, int) else predicted,
        ignore_index=ignore_index,
        tolerance_mm=tolerance,
        empty_reference=empty_reference,
        resample=resample,
    )
    results: list[CaseResult] = []
    for result in tqdm(_results(jobs, work, workers), total=len(jobs), desc="scoring", unit="case"):
        if isinstance(result, str):
            problems.append(result)
            tqdm.write(f"not scored: {result}")
        else:
            results.append(result)
    if not results:
        raise InputError(problems[0] if problems else f"{references}: holds no case to score")
    if not any(r.fractured for r in results):
        print(
            f"{references}: no reference holds a fracture; if {ignore_index} marks them there, "
            f"give --fractured {ignore_index} --ignore_index -1"
        )
    summary = summarise(results, min_overlap, samples, seed)
    facts = {
        "predictions": str(Path(predictions).resolve()),
        "predictions_sha256": file_hash(predictions),
        "references": str(Path(references).resolve()),
        "references_sha256": file_hash(references),
        "tolerance_mm": tolerance,
        "empty_reference": empty_reference,
        "confidence": "highest probability" if probabilities else "volume in ml",
        "bootstrap": {"samples": samples, "seed": seed},
    }
    write_tables(out, results, summary, min_overlap, facts, problems)
    read = partial(
        read_pair,
        fractured=wanted,
        predicted=work.keywords["predicted"],
        ignore_index=ignore_index,
        resample=resample,
    )
    pictures = draw_worst(worst_cases(results), {job.case: job for job in jobs}, Path(out) / "worst", read)
    write_report(out, results, summary, min_overlap, facts, problems, pictures)
    if problems:
        raise InputError(
            f"{len(problems)} of {len(results) + len(problems)} cases were not scored, see above; the others are in {out}"
        )
    return str(Path(out) / "summary.md")
