# SPDX-License-Identifier: Apache-2.0
"""Scores of the runs of a suite: by case and by seed, with differences to the reference variant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...evaluation.compare import read_cases
from ...evaluation.statistics import Bootstrap, Estimate, holm, paired_test, patient_means
from .definition import Suite, Variant
from .ensemble import ensemble_folder
from .record import read_record
from .run import run_state
from .stages import EVALUATION

METRICS = {"dice": "DSC", "iou": "IoU", "nsd": "NSD"}


@dataclass
class Row:
    """One line of a table."""

    label: str
    variant: Variant
    estimates: dict[str, Estimate] = field(default_factory=dict)  # by metric: mean over cases of the mean over seeds
    seeds: dict[str, dict[int, float]] = field(default_factory=dict)  # mean over cases by metric and seed
    cases: dict[str, dict[str, float]] = field(default_factory=dict)  # mean over seeds by metric and case
    difference: Estimate | None = None  # mean difference of the DSC to the reference; None for the reference itself
    p: float | None = None  # Wilcoxon's signed rank test on patients
    p_holm: float | None = None  # adjusted for all rows (Holm 1979)
    equal_within: float = float("nan")  # margin of the DSC within which it is shown to be equal to the reference
    detection: dict[str, float] = field(default_factory=dict)  # sensitivity and false positives per scan, means over seeds
    counts: dict[str, int] = field(default_factory=dict)  # their numerators and denominators, sums over seeds
    failed: dict[str, str] = field(default_factory=dict)  # reason by run, for runs without result
    seconds: list[float] = field(default_factory=list)  # training time of each run
    peak_mib: float | None = None  # largest memory of a training process


def _missing_reason(folder: Path) -> str | None:
    """Reason why a run has no result; None when it has one."""
    record = read_record(folder)
    if record.get("state") == "failed":
        return str(record.get("error", ["failed"])[0])
    return None if EVALUATION.is_done(folder) else run_state(folder)


COUNTS = ("fractures", "detected", "false_positives")


def _counts(lines: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Fractures, detected ones, false positives and scans of the cases of one seed; empty without detections."""
    graded = [line for line in lines if line.get("fractures")]
    return {**{k: round(sum(float(line[k]) for line in graded)) for k in COUNTS}, "scans": len(graded)} if graded else {}


def _detection(counts: Mapping[str, int]) -> dict[str, float]:
    """Sensitivity for fractures and false positives per scan of the counts of one seed."""
    sensitivity = {"sensitivity": counts["detected"] / counts["fractures"]} if counts.get("fractures") else {}
    return {"false_positives": counts["false_positives"] / counts["scans"], **sensitivity} if counts else {}


def _read_row(row: Row, folders_by_seed: Mapping[int, Sequence[Path]]) -> dict[str, str]:
    """Fill a row from the folders of each seed, of which several are folds with pooled cases; return patients by case."""
    patients: dict[str, str] = {}
    values: dict[str, dict[str, list[float]]] = {m: defaultdict(list) for m in METRICS}
    detection: dict[str, list[float]] = defaultdict(list)
    for seed, folders in folders_by_seed.items():
        lines: list[dict[str, str]] = []
        for folder in folders:
            reason = _missing_reason(folder)
            if reason is not None:
                row.failed[folder.name] = reason
                continue
            training = read_record(folder).get("stages", {}).get("training", {})
            if training:
                row.seconds.append(float(training["seconds"]))
            if training.get("peak_mib"):
                row.peak_mib = max(row.peak_mib or 0.0, float(training["peak_mib"]))
            lines += read_cases(folder / "evaluation").values()
        patients |= {line["case"]: line["patient"] for line in lines}
        for metric in METRICS:
            of_seed = {line["case"]: float(line[metric]) for line in lines if line.get(metric)}
            for case, value in of_seed.items():
                values[metric][case].append(value)
            if of_seed:
                row.seeds.setdefault(metric, {})[seed] = float(np.mean(list(of_seed.values())))
        counts = _counts(lines)
        for key, value in _detection(counts).items():
            detection[key].append(value)
        for key, number in counts.items():
            row.counts[key] = row.counts.get(key, 0) + number
    row.cases = {m: {c: float(np.mean(v)) for c, v in sorted(by.items())} for m, by in values.items()}
    row.detection = {k: float(np.mean(v)) for k, v in detection.items()}
    return patients


def read_rows(suite: Suite, root: Path, samples: int = 2000, ensemble: bool = False) -> tuple[list[Row], dict[str, str]]:
    """Row of every variant, from its runs or from the ensembles of its folds, and the patient of every case."""
    rows, patients = list[Row](), dict[str, str]()
    for variant in suite.variants:
        row = Row(f"{variant.label}, ensemble" if ensemble else variant.label, variant)
        folders: dict[int, list[Path]] = {}
        for run in suite.runs([variant.name]):
            folders.setdefault(run.seed, []).append(root / "members" / run.name)
        if ensemble:
            folders = {s: [ensemble_folder(root, variant.name, s)] for s in folders}
        patients |= _read_row(row, folders)
        for metric, by_case in row.cases.items():
            if by_case:
                bootstrap = Bootstrap([patients[c] for c in by_case], samples)
                row.estimates[metric] = bootstrap.mean(np.array(list(by_case.values())))
        rows.append(row)
    reference = next(r for r in rows if r.variant.name == suite.reference)
    tested = []
    for row in rows:
        shared = sorted(set(row.cases.get("dice", {})) & set(reference.cases.get("dice", {})))
        if row is reference or not shared:
            continue
        values = np.array([row.cases["dice"][c] - reference.cases["dice"][c] for c in shared])
        bootstrap = Bootstrap([patients[c] for c in shared], samples)
        row.difference, row.equal_within = bootstrap.mean(values), bootstrap.equal_within(values)
        row.p = paired_test(patient_means(values, [patients[c] for c in shared]))
        tested.append(row)
    for row, p in zip(tested, holm([r.p for r in tested if r.p is not None]), strict=True):
        row.p_holm = p
    return rows, patients


def patient_matrix(rows: Sequence[Row], patients: Mapping[str, str], metric: str = "dice") -> tuple[list[Row], NDArray]:
    """Rows that have results, and their values ``(patients, rows)`` for the cases that all of them have."""
    present = [r for r in rows if r.cases.get(metric)]
    shared = sorted(set.intersection(*(set(r.cases[metric]) for r in present))) if present else []
    names = [patients[c] for c in shared]
    columns = [patient_means(np.array([r.cases[metric][c] for c in shared]), names) for r in present]
    return present, np.stack(columns, axis=1) if columns and shared else np.zeros((0, len(present)))
