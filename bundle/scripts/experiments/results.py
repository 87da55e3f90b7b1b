# SPDX-License-Identifier: Apache-2.0
"""What the runs of a suite scored: per case, per seed, against the reference member."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.compare import read_cases
from ..evaluation.statistics import Bootstrap, Estimate, holm, paired_test
from .claims import Claim
from .ensemble import ensemble_folder
from .record import read_record
from .suite import Member, Run, Suite

METRICS = ("dice", "iou", "nsd")


@dataclass
class Row:
    """One line of a table.

    Attributes:
        label: name as printed.
        member: of the suite.
        estimates: mean over cases by metric, of the mean over seeds, with a bootstrap interval over patients.
        seeds: mean over cases by metric and seed.
        cases: mean over seeds by metric, case by case.
        difference: mean difference of the DSC to the reference; None for the reference itself.
        p: of Wilcoxon's signed rank test on patients.
        p_holm: adjusted for all rows (Holm).
        detection: sensitivity for fractures and false positives per scan, means over seeds.
        failed: runs that ended badly or have no result, with the reason.
        seconds: training time of each run.
        peak_mib: largest memory of a training process.
    """

    label: str
    member: Member
    estimates: dict[str, Estimate] = field(default_factory=dict)
    seeds: dict[str, dict[int, float]] = field(default_factory=dict)
    cases: dict[str, dict[str, float]] = field(default_factory=dict)
    difference: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None
    detection: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None


def _state(folder: Path) -> str | None:
    """Why a run has no result; None when it has one."""
    record = read_record(folder)
    if record.get("state") == "failed":
        return str(record.get("error", ["failed"])[0])
    if not (folder / "evaluation" / "cases.csv").is_file():
        state = str(record.get("state", "not begun"))
        return "cut off" if state == "running" and Claim(folder).holder() is None else state
    return None


def _detection(lines: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Sensitivity for fractures and false positives per scan of the cases of one seed."""
    counted = [line for line in lines if line.get("fractures")]
    if not counted:
        return {}
    total, found, false = (sum(float(line[k]) for line in counted) for k in ("fractures", "found", "false_positives"))
    return {"false_positives": false / len(counted), **({"sensitivity": found / total} if total else {})}


def _gather(row: Row, groups: dict[int, list[Path]]) -> dict[str, str]:
    """Fill a row from the folders of each seed (several folders are folds: their cases are pooled); return patients."""
    patients: dict[str, str] = {}
    values: dict[str, dict[str, list[float]]] = {m: defaultdict(list) for m in METRICS}
    detected: dict[str, list[float]] = defaultdict(list)
    for seed, folders in groups.items():
        of_seed: dict[str, list[float]] = defaultdict(list)
        lines: list[dict[str, str]] = []
        for folder in folders:
            reason = _state(folder)
            if reason is not None:
                row.failed[folder.name] = reason
                continue
            record = read_record(folder)
            training = record.get("stages", {}).get("training", {})
            if training:
                row.seconds.append(float(training["seconds"]))
                if training.get("peak_mib"):
                    row.peak_mib = max(row.peak_mib or 0.0, float(training["peak_mib"]))
            for case, line in read_cases(folder / "evaluation").items():
                lines.append(line)
                patients[case] = line["patient"]
                for metric in METRICS:
                    if line.get(metric):
                        values[metric][case].append(float(line[metric]))
                        of_seed[metric].append(float(line[metric]))
        for key, value in _detection(lines).items():
            detected[key].append(value)
        for metric, numbers in of_seed.items():
            row.seeds.setdefault(metric, {})[seed] = float(np.mean(numbers))
    row.cases = {m: {c: float(np.mean(v)) for c, v in sorted(by.items())} for m, by in values.items()}
    row.detection = {k: float(np.mean(v)) for k, v in detected.items()}
    return patients


def _groups(suite: Suite, root: Path, member: Member, ensemble: bool) -> dict[int, list[Path]]:
    if ensemble:
        return {s: [ensemble_folder(root, member.name, s)] for s in suite.seeds}
    folds: Sequence[int | None] = range(suite.folds) if suite.folds else [None]
    return {s: [root / "members" / Run(member, s, k).name for k in folds] for s in suite.seeds}


def rows_of(suite: Suite, root: Path, samples: int = 2000, ensemble: bool = False) -> tuple[list[Row], dict[str, str]]:
    """Read the results of a suite.

    Args:
        suite: what was run.
        root: its folder.
        samples: bootstrap resamples.
        ensemble: the ensembles of the folds in place of the folds.

    Returns:
        A row per member in the suite's order, and the patient of every case.
    """
    rows: list[Row] = []
    patients: dict[str, str] = {}
    for member in suite.members:
        row = Row(f"{member.label}, ensemble" if ensemble else member.label, member)
        patients |= _gather(row, _groups(suite, root, member, ensemble))
        for metric, by_case in row.cases.items():
            if by_case:
                bootstrap = Bootstrap([patients[c] for c in by_case], samples)
                row.estimates[metric] = bootstrap.mean(np.array(list(by_case.values())))
        rows.append(row)
    reference = next(r for r in rows if r.member.name == suite.reference)
    tested = []
    for row in rows:
        shared = sorted(set(row.cases.get("dice", {})) & set(reference.cases.get("dice", {})))
        if row is reference or not shared:
            continue
        values = np.array([row.cases["dice"][c] - reference.cases["dice"][c] for c in shared])
        row.difference = Bootstrap([patients[c] for c in shared], samples).mean(values)
        row.p = paired_test(by_patient(values, [patients[c] for c in shared]))
        tested.append(row)
    for row, p in zip(tested, holm([r.p for r in tested if r.p is not None]), strict=True):
        row.p_holm = p
    return rows, patients


def by_patient(values: NDArray, patients: Sequence[str]) -> NDArray:
    """Mean of each patient's values, patients in order of their names."""
    groups: dict[str, list[float]] = defaultdict(list)
    for patient, value in zip(patients, values, strict=True):
        groups[patient].append(float(value))
    return np.array([np.mean(groups[p]) for p in sorted(groups)])


def matrix(rows: Sequence[Row], patients: dict[str, str], metric: str = "dice") -> tuple[list[Row], NDArray]:
    """Rows that have results, and their values for every patient that all of them have: (patients, rows)."""
    present = [r for r in rows if r.cases.get(metric)]
    shared = sorted(set.intersection(*(set(r.cases[metric]) for r in present))) if present else []
    names = [patients[c] for c in shared]
    columns = [by_patient(np.array([r.cases[metric][c] for c in shared]), names) for r in present]
    return present, np.stack(columns, axis=1) if columns and shared else np.zeros((0, len(present)))


def printed(member: Member, metric: str) -> str:
    """Figure of the paper in per cent, or nothing."""
    value: Any = member.paper.get(metric)
    return "" if value is None else f"{float(value):.2f}"
