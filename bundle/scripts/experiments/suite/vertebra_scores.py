# SPDX-License-Identifier: Apache-2.0
"""Scores per vertebra of the members of a suite, on its test cases and, apart, on further scans such as real ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...core.files import read_table
from ...evaluation.compare import read_cases
from ...evaluation.statistics import Bootstrap, Estimate, auc, interval_text
from ...evaluation.vertebra_tables import TABLE
from .definition import Suite
from .record import read_record
from .stages import REAL, TRAINING

FOLDERS = {"evaluation": "Vertebrae of the test cases", "evaluation_real": "Scans scored apart, by vertebra"}
VERTEBRA_RULES = (
    "Vertebrae are flagged by the decision per vertebra, where a network has an output of body, else when at least half of the "
    "vertebra is marked; the AUC ranks them by probability. A missed vertebra is not flagged. Each vertebra is averaged over the "
    "seeds first; the AUC is the mean over the seeds with its range. Vertebra DSC: of each vertebra of the reference, 0 if missed."
)


def _estimate(values: Sequence[float], patients: Sequence[str], seeds: int) -> str:
    """Fraction of vertebrae, with its counts of one seed or the number of vertebrae, and the interval over patients."""
    if not values:
        return ""
    bootstrap, array = Bootstrap(list(patients)), np.array(values, float)
    if seeds == 1:
        e: Estimate = bootstrap.proportion(array, np.ones(len(array)))
        return f"{100 * e.value:.1f} ({interval_text(e, 1, 100)}; {int(array.sum())} of {len(array)})"
    e = bootstrap.mean(array)
    return f"{100 * e.value:.1f} ({interval_text(e, 1, 100)}; n {len(array)})"


def _auc(rows: Mapping[int, Sequence[Mapping[str, str]]]) -> str:
    """Mean over the seeds of the area under the ROC curve, and its range; of one seed with the interval over patients."""
    areas = []
    for lines in rows.values():
        known = [r for r in lines if r["fractured"] != ""]
        column = "probability" if any(r["probability"] for r in known) else "marked"
        score = np.array([-1.0 if r["missed"] == "1" or not r[column] else float(r[column]) for r in known])
        positive = np.array([r["fractured"] == "1" for r in known], bool)
        if positive.any() and not positive.all():
            areas.append((auc(score, positive), score, positive, [r["patient"] for r in known]))
    if not areas:
        return ""
    if len(areas) == 1:
        _, score, positive, patients = areas[0]
        e = Bootstrap(patients).auc(score, positive)
        return f"{e.value:.3f} ({interval_text(e, 3)})"
    values = [a[0] for a in areas]
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _cells(folders: Mapping[int, Path]) -> dict[str, str]:
    """Cells of one member from the folders of its evaluations by seed; empty without a table of vertebrae."""
    rows = {seed: read_table(f / TABLE) for seed, f in folders.items() if (f / TABLE).is_file()}
    if not any(rows.values()):
        return {}
    flagged: dict[tuple[str, str], list[float]] = defaultdict(list)
    dice: dict[tuple[str, str], list[float]] = defaultdict(list)
    classes, patients = dict[tuple[str, str], str](), dict[tuple[str, str], str]()
    for lines in rows.values():
        for r in lines:
            key = r["case"], r["label"]
            classes[key], patients[key] = r["fractured"], r["patient"]
            flagged[key].append(float(r["flagged"] or 0))
            if r["dice"] or r["missed"] == "1":
                dice[key].append(float(r["dice"] or 0))
    fractured, intact = ([k for k, c in classes.items() if c == value] for value in ("1", "0"))
    cells = {"vertebrae": str(len(classes)), "patients": str(len(set(patients.values())))}
    cells["sensitivity, %"] = _estimate(
        [float(np.mean(flagged[k])) for k in fractured], [patients[k] for k in fractured], len(rows)
    )
    clear = [1 - float(np.mean(flagged[k])) for k in intact]
    cells["specificity, %"] = _estimate(clear, [patients[k] for k in intact], len(rows))
    cells["AUC"] = _auc(rows)
    cells["vertebra DSC, %"] = f"{100 * np.mean([np.mean(v) for v in dice.values()]):.1f} (n {len(dice)})" if dice else ""
    scans = [read_cases(f) for f in folders.values() if (f / "cases.csv").is_file()]
    values = [float(r["dice"]) for table in scans for r in table.values() if r.get("dice")]
    cells["fracture DSC, %"] = f"{100 * np.mean(values):.1f} (n {len(scans[0])})" if values else ""
    return cells


def vertebra_table(suite: Suite, root: Path, folder: str) -> list[dict[str, str]]:
    """Row of every member with a table of vertebrae in ``folder`` of its runs; empty where none has one."""
    lines = []
    for variant in suite.variants:
        runs = {r.seed: root / "members" / r.name for r in suite.runs([variant.name]) if r.fold is None}
        if cells := _cells({s: f / folder for s, f in runs.items() if TRAINING.is_done(f)}):
            lines.append({"Method": variant.label, **cells})
    columns = list(dict.fromkeys(k for line in lines for k in line))
    return [{c: line.get(c, "") for c in columns} for line in lines]


def scored_apart(suite: Suite, root: Path) -> bool:
    """True where a run has scores of further scans."""
    return any((root / "members" / r.name / REAL.product).is_file() for r in suite.runs())


def machines(suite: Suite, root: Path) -> str:
    """Machines on which the runs of a suite were made, with the number of runs."""
    names: dict[str, int] = defaultdict(int)
    for run in suite.runs():
        record = read_record(root / "members" / run.name)
        if machine := record.get("machine"):
            devices = ", ".join(dict.fromkeys(machine.get("gpus") or [])) or f"{machine.get('processor', '?')}, no GPU"
            away = ", by an archive" if record.get("kit") else ""
            names[f"{machine.get('host', '?')} ({devices}; {machine.get('cores', '?')} cores{away})"] += 1
    return "; ".join(f"{name}: {number} run{'s' * (number > 1)}" for name, number in names.items())
