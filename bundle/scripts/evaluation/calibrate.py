# SPDX-License-Identifier: Apache-2.0
"""``calibrate``: slope and intercept of vertebra probabilities, fitted to validation cases, as an overlay of inference.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core.errors import InputError, first_line
from ..core.files import atomic_write, write_text
from ..visualization.html_report import png
from .calibration import brier_score, calibrated, calibration_error, fit_calibration, reliability, uncalibrated
from .case_vertebrae import case_vertebrae
from .inference_output import read_instances
from .pairs import ScoringCase, find_cases, on_reference_grid, read_mask
from .statistics import MIN_PATIENTS, TOO_FEW, Bootstrap
from .vertebra_plots import reliability_diagram
from .vertebra_summary import with_probability

FEW = 20  # vertebrae of a class below which a fit is uncertain, which its interval shows


def _case_probabilities(
    case: ScoringCase, fractured: Sequence[int] | None, ignore_index: int, resample: bool
) -> list[tuple[str, float, bool]]:
    """Patient, probability before any calibration, and class of every vertebra of a case."""
    if case.vertebrae is None:
        raise ValueError(f"{case.reference}: has no vertebra instances; add --vertebrae FOLDER, or use a datalist with vertebrae")
    reference = read_mask(case.reference, fractured, (ignore_index,))
    vertebrae = on_reference_grid(read_instances(case.vertebrae), reference, case.vertebrae, resample)
    decisions = with_probability(case_vertebrae(case, reference, vertebrae, None, None, ignore_index, resample).decisions)
    raw = uncalibrated([d.probability for d in decisions], case.calibration)
    return [(d.patient, float(p), bool(d.fractured)) for d, p in zip(decisions, raw, strict=True)]


def cross_calibrated(p: NDArray, y: NDArray[np.bool_], patients: Sequence[str]) -> NDArray[np.float64]:
    """Probabilities (N,) of each patient calibrated by a fit to all other patients; NaN where these lack a class."""
    names, result = np.asarray(patients, str), np.full(len(p), np.nan)
    for name in np.unique(names):
        own = names == name
        if y[~own].any() and not y[~own].all():
            result[own] = calibrated(p[own], fit_calibration(p[~own], y[~own]))
    return result


def _interval(p: NDArray, y: NDArray[np.bool_], patients: Sequence[str], samples: int, seed: int) -> NDArray[np.float64] | None:
    """Wider of the bootstrap intervals over patients and over vertebrae: (low, high) by (slope, intercept); None for few."""
    if len(set(patients)) < MIN_PATIENTS:
        return None
    intervals = []
    for groups in (patients, [str(k) for k in range(len(p))]):
        bootstrap, fits = Bootstrap(groups, samples, seed), []
        for weights in bootstrap.weights[:, bootstrap.index]:
            if weights[y].any() and weights[~y].any():
                fits.append(fit_calibration(p, y, weights))
        if fits:
            intervals.append(np.percentile(fits, [2.5, 97.5], axis=0))
    return np.stack([np.min(intervals, axis=0)[0], np.max(intervals, axis=0)[1]])


def calibrate(
    predictions: str,
    references: str,
    *,
    out: str,
    section: str = "validation",
    vertebrae: str | None = None,
    table: str | None = None,
    predicted_vertebrae: str | None = None,
    patient: str | None = None,
    fractured: Sequence[int] | int | None = None,
    ignore_index: int = 255,
    resample: bool = False,
    samples: int = 500,
    seed: int = 0,
) -> str:
    """Fit the calibration of vertebra probabilities to validation cases, as an overlay of inference.yaml.

    Inference applies logit(p_calibrated) = slope * logit(p) + intercept; a calibration that the predictions already have is undone
    first. Writes the overlay to OUT and a reliability diagram, before and after, next to it. The figures after calibration are of
    patients that a fit to the others calibrates. Fit on validation data, and report on test data.

    Args:
        predictions: output folder of inference, with vertebrae.csv.
        references: folder of masks, or a datalist.json, which has patients, vertebrae and grades.
        out: file of the overlay, such as calibration.yaml.
        section: section of the datalist.
        vertebrae: folder of vertebra instances of the references in VerSe's labels, for references in a folder.
        table: path of vertebrae.csv with the grades of the references; by default the one in the folder of the references.
        predicted_vertebrae: folder of the vertebra instances of the predictions; by default NAME_vertebrae.nii.gz in PREDICTIONS.
        patient: regular expression whose match in the case name is the patient, for references in a folder.
        fractured: labels of fractures in the references; required if there are several labels.
        ignore_index: label of ignored voxels in the references.
        resample: resample instances to the grid of their reference instead of rejecting a different grid.
        samples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        Text of the overlay.

    Raises:
        InputError: without probabilities or without both classes, and when probabilities rank fractures no better than chance; for
            cases that were left out, after the overlay of the others is written.
    """
    path = Path(out)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"out={out}: must be the name of a file such as calibration.yaml")
    cases, problems = find_cases(predictions, references, section, vertebrae, None, table, patient, predicted_vertebrae)
    if all(case.records is None for case in cases):
        raise InputError(f"{predictions}: contains no vertebrae.csv of inference; segment the {section} cases first")
    labels = [fractured] if isinstance(fractured, int) else fractured
    rows: list[tuple[str, float, bool]] = []
    for case in tqdm(cases, desc="reading", unit="case"):
        try:
            rows += _case_probabilities(case, labels, ignore_index, resample)
        except (ValueError, OSError) as error:
            problems.append(first_line(error))
    for problem in problems:
        tqdm.write(f"left out: {problem}")
    if not rows:
        raise InputError(
            f"{predictions}: has no probability of a vertebra whose class is known" + (", see above" if problems else "")
        )
    patients = [name for name, _, _ in rows]
    p, y = np.array([v for _, v, _ in rows]), np.array([f for _, _, f in rows])
    try:
        slope, intercept = fit_calibration(p, y)
    except ValueError as error:
        raise InputError(f"{references}: {error}; add cases of the {section} section") from None
    if slope <= 0:
        raise InputError(
            f"{predictions}: slope {slope:.2f}; the probabilities rank fractures no better than chance, so no calibration helps; "
            "check the weights and the references"
        )
    text = _write(path, p, y, patients, (round(slope, 4), round(intercept, 4)), samples, seed)
    if problems:
        raise InputError(f"{len(problems)} problem(s), see above; {path} is of the other cases")
    return text


def _write(
    path: Path, p: NDArray, y: NDArray[np.bool_], patients: Sequence[str], fit: tuple[float, float], samples: int, seed: int
) -> str:
    """Write overlay and diagram; returns the text of the overlay."""
    after, how = cross_calibrated(p, y, patients), "each patient calibrated by a fit to the others"
    if np.isnan(after).any():
        after, how = calibrated(p, fit), "of the vertebrae of the fit itself, and therefore too low"
    interval, ends = _interval(p, y, patients, samples, seed), [TOO_FEW] * 2
    if interval is not None:
        ends = [f"{low:.2f} to {high:.2f}" for low, high in interval.T]
    errors = [calibration_error(values, y) for values in (p, after)]
    scores = [brier_score(values, y) for values in (p, after)]
    few = min(int(y.sum()), int((~y).sum())) < FEW
    lines = [
        f"# Fitted by `spine-fracture evaluate calibrate` to {len(y)} vertebrae ({int(y.sum())} fractured) of {len(set(patients))} "
        "patient(s).",
        f"# Slope {fit[0]:.2f} (95 % bootstrap interval: {ends[0]}), intercept {fit[1]:.2f} ({ends[1]}).",
        f"# Calibration error (ECE) {errors[0]:.3f} before, {errors[1]:.3f} after; "
        f"Brier score {scores[0]:.3f} before, {scores[1]:.3f} after.",
        f"# After: {how}.",
        *([f"# Fewer than {FEW} vertebrae of a class: the fit is uncertain."] if few else []),
        "# An overlay of inference.yaml: logit(p_calibrated) = slope * logit(p) + intercept. For research use only.",
        f"calibration: [{fit[0]}, {fit[1]}] # slope, intercept",
    ]
    text = "\n".join(lines) + "\n"
    tables = {f"before: ECE {errors[0]:.3f}, n = {len(y)}": reliability(p, y), f"after: ECE {errors[1]:.3f}": reliability(after, y)}
    figure = reliability_diagram(tables)
    if figure is not None:
        with atomic_write(path.with_suffix(".png")) as temporary:
            temporary.write_bytes(png(figure))
    write_text(path, text)
    return text
