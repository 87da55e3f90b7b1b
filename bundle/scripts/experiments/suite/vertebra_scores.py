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
from ...evaluation.vertebra_tables import SCANS, TABLE
from .definition import Suite
from .record import read_record
from .stages import EVALUATION, REAL, TRAINING

VertebraRows = Mapping[int, Sequence[Mapping[str, str]]]  # rows of vertebrae.csv by seed

FOLDERS = {"evaluation": "Vertebrae of the test cases", "evaluation_real": "Scans scored apart, by vertebra"}
VERTEBRA_RULES = (
    "Vertebrae are flagged by the decision per vertebra, where a network has an output of body, else when at least half of the "
    "vertebra is marked; the AUC ranks them by probability. A missed vertebra is not flagged. Each vertebra is averaged over the "
    "seeds first; the AUC is the mean over the seeds with its range. Vertebra DSC: of each vertebra of the reference, 0 if missed. "
    "All vertebrae DSC: of all vertebrae of a scan as one mask, mean over the scans, and the paired difference of it to the "
    "reference member on the same scans, both with intervals over patients."
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


def _known(lines: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], tuple[float, bool, str]]:
    """Score, class and patient of the vertebrae with a known class, by case and label; a missed one has the lowest score."""
    known = [r for r in lines if r["fractured"] != ""]
    column = "probability" if any(r["probability"] for r in known) else "marked"
    return {
        (r["case"], r["label"]): (
            -1.0 if r["missed"] == "1" or not r[column] else float(r[column]),
            r["fractured"] == "1",
            r["patient"],
        )
        for r in known
    }


def _auc(rows: VertebraRows) -> str:
    """Mean over the seeds of the area under the ROC curve, and its range; of one seed with the interval over patients."""
    tables = [_known(lines) for lines in rows.values()]
    tables = [t for t in tables if len({positive for _, positive, _ in t.values()}) == 2]
    if not tables:
        return ""
    if len(tables) == 1:
        scores, positive, patients = (np.array(v) for v in zip(*tables[0].values(), strict=True))
        e = Bootstrap(patients.tolist()).auc(scores, positive)
        return f"{e.value:.3f} ({interval_text(e, 3)})"
    values = [auc(*(np.array(v) for v in list(zip(*t.values(), strict=True))[:2])) for t in tables]
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _auc_difference(own: VertebraRows, reference: VertebraRows) -> str:
    """Difference of the AUC to the reference member on the same vertebrae, of means over the seeds; interval over patients."""
    sides = [[_known(lines) for lines in rows.values()] for rows in (own, reference)]
    if not all(sides):
        return ""
    keys = sorted(set.intersection(*(set(table) for tables in sides for table in tables)))
    positive = np.array([sides[0][0][k][1] for k in keys], bool)
    if not positive.any() or positive.all():
        return ""
    bootstrap = Bootstrap([sides[0][0][k][2] for k in keys])
    values, resampled = [], []
    for tables in sides:
        scores = [np.array([table[k][0] for k in keys]) for table in tables]
        values.append(float(np.mean([auc(s, positive) for s in scores])))
        resampled.append(np.mean([bootstrap.areas(s, positive) for s in scores], axis=0))
    e = bootstrap.estimate(values[0] - values[1], resampled[0] - resampled[1], len(keys), len(bootstrap.names))
    return f"{e.value:+.3f} ({interval_text(e, 3, sign='+')})"


def _rows(folders: Mapping[int, Path]) -> VertebraRows:
    """Rows of vertebrae.csv of the evaluations that have one, by seed."""
    return {seed: read_table(f / TABLE) for seed, f in folders.items() if (f / TABLE).is_file()}


def _cells(folders: Mapping[int, Path], reference: VertebraRows | None) -> dict[str, str]:
    """Cells of one member from its evaluations by seed and the reference member's rows; empty without a table of vertebrae."""
    rows = _rows(folders)
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
    cells["AUC to reference"] = "" if reference is None else _auc_difference(rows, reference)
    cells["vertebra DSC, %"] = f"{100 * np.mean([np.mean(v) for v in dice.values()]):.1f} (n {len(dice)})" if dice else ""
    scans = [read_cases(f) for f in folders.values() if (f / "cases.csv").is_file()]
    values = [float(r["dice"]) for table in scans for r in table.values() if r.get("dice")]
    cells["fracture DSC, %"] = f"{100 * np.mean(values):.1f} (n {len(scans[0])})" if values else ""
    return cells


def _dice_of_all(folders: Mapping[int, Path]) -> dict[str, float]:
    """DSC of all vertebrae of a scan as one mask, mean over the seeds that have it, by scan."""
    values: dict[str, list[float]] = defaultdict(list)
    for folder in folders.values():
        for row in read_table(folder / SCANS) if (folder / SCANS).is_file() else []:
            if row["dice_of_all"]:
                values[row["case"]].append(float(row["dice_of_all"]))
    return {case: float(np.mean(v)) for case, v in values.items()}


def _patients(folders: Mapping[int, Path]) -> dict[str, str]:
    """Patient of each case in the tables of some evaluations."""
    tables = [read_cases(f) for f in folders.values() if (f / "cases.csv").is_file()]
    return {case: row.get("patient") or case for table in tables for case, row in table.items()}


def _dice_cells(own: Mapping[str, float], reference: Mapping[str, float] | None, patients: Mapping[str, str]) -> dict[str, str]:
    """Mean of the DSC of all vertebrae, and its mean paired difference to the reference member, with intervals over patients."""
    if not own:
        return {}

    def mean(values: Mapping[str, float], sign: str) -> str:
        e = Bootstrap([patients.get(c, c) for c in values]).mean(np.array(list(values.values())))
        return f"{100 * e.value:{sign}.1f} ({interval_text(e, 1, 100, sign)})"

    cells = {"all vertebrae DSC, %": mean(own, ""), "DSC to reference": "reference" if reference is None else ""}
    if reference is not None and (shared := sorted(set(own) & set(reference))):
        cells["DSC to reference"] = mean({c: own[c] - reference[c] for c in shared}, "+")
    return cells


def _folders(suite: Suite, root: Path, member: str, folder: str) -> dict[int, Path]:
    """Evaluations of the finished runs of a member, by seed."""
    runs = {r.seed: root / "members" / r.name for r in suite.runs([member]) if r.fold is None}
    stage = next(stage for stage in (EVALUATION, REAL) if Path(stage.product).parent.name == folder)
    return {s: f / folder for s, f in runs.items() if TRAINING.is_done(f) and stage.is_done(f)}


def vertebra_table(suite: Suite, root: Path, folder: str) -> list[dict[str, str]]:
    """Row of every member with a table of vertebrae in ``folder`` of its runs; empty where none has one."""
    lines = []
    folders = {v.name: _folders(suite, root, v.name, folder) for v in suite.variants}
    reference = _rows(folders[suite.reference]), _dice_of_all(folders[suite.reference])
    for variant in suite.variants:
        own = folders[variant.name]
        rows, dice = (None, None) if variant.name == suite.reference else reference
        if cells := _cells(own, rows):
            cells |= _dice_cells(_dice_of_all(own), dice, _patients(own))
            lines.append({"Method": variant.label, **cells})
    columns = dict.fromkeys(k for line in lines for k in line)
    return [{c: line.get(c, "") for c in columns if any(other.get(c) for other in lines)} for line in lines]


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
