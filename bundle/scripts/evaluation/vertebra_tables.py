# SPDX-License-Identifier: Apache-2.0
"""Tables of vertebrae of an evaluation: ``vertebrae.csv``, ``instances.csv``, ``scans.csv``, reliability, confusion of grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.files import write_table
from .instances import InstanceMatching
from .vertebra_decisions import CaseVertebrae, VertebraDecision
from .vertebra_summary import VertebraSummary

TABLE = "vertebrae.csv"
DECISION_COLUMNS = (
    "case", "patient", "label", "level", "region", "fractured", "grade", "shape", "volume_ml",
    "flagged", "probability", "marked", "missed", "instance", "iou", "dice", "cut",
    "predicted_level", "measured_grade", "measured_shape", "loss_from_neighbours", "loss_from_posterior",
)  # fmt: skip
INSTANCE_COLUMNS = ("case", "instance", "result", "label", "iou", "dice")
SCANS = "scans.csv"
SCAN_COLUMNS = ("case", "vertebrae", "matched", "missed", "false_positives", "left_out", "dice_of_all")


def _cell(value: object) -> object:
    if value is None or (isinstance(value, (float, np.floating)) and not np.isfinite(value)):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return round(float(value), 6) if isinstance(value, (float, np.floating)) else value


def decision_row(decision: VertebraDecision) -> dict[str, object]:
    """Row of ``DECISION_COLUMNS``; an unknown value is ""."""
    values = {c: getattr(decision, c) for c in DECISION_COLUMNS if hasattr(decision, c)}
    if (pair := decision.pair) is not None:
        values |= {"instance": pair.predicted or None, "iou": pair.iou, "dice": pair.dice, "cut": pair.cut}
    if (record := decision.record) is not None and not decision.missed:
        names = ("measured_grade", "measured_shape", "loss_from_neighbours", "loss_from_posterior")
        values |= {"predicted_level": record.level, **{name: getattr(record, name) for name in names}}
    return {c: _cell(values.get(c)) for c in DECISION_COLUMNS}


def instance_rows(case: str, vertebrae: CaseVertebrae) -> list[dict[str, object]]:
    """Rows of ``INSTANCE_COLUMNS``: matched and missed vertebrae, false positives, and what was left out with the reason."""
    matching = vertebrae.instances
    if matching is None:
        return []
    rows = []
    for p in matching.pairs:
        result = ("matched" if p.predicted else "missed") + ("" if p.counted else ", not counted: cut by the border")
        cells = (case, p.predicted or None, result, p.label, p.iou, p.dice)
        rows.append({c: _cell(v) for c, v in zip(INSTANCE_COLUMNS, cells, strict=True)})
    results = {p: "false positive" for p in matching.false_positives} | {
        p: f"left out: {why}" for p, why in matching.left_out.items()
    }
    return rows + [{"case": case, "instance": p, "result": result} for p, result in sorted(results.items())]


def scan_row(case: str, matching: InstanceMatching) -> dict[str, object]:
    """Row of ``SCAN_COLUMNS``: numbers of vertebrae and instances, and the DSC of all vertebrae as one mask (None: no voxel)."""
    matched, false, missed = matching.counts
    dice = None if np.isnan(matching.together_dice) else round(matching.together_dice, 4)
    cells = (case, matched + missed, matched, missed, false, len(matching.left_out), dice)
    return dict(zip(SCAN_COLUMNS, cells, strict=True))


def write_vertebra_tables(out: str | Path, cases: Sequence[tuple[str, CaseVertebrae]]) -> None:
    """Write ``vertebrae.csv`` and, where the predictions have instances, ``instances.csv`` and ``scans.csv``.

    Args:
        out: folder.
        cases: name and vertebrae of every case.
    """
    root = Path(out)
    write_table(root / TABLE, [decision_row(d) for _, v in cases for d in v.decisions], DECISION_COLUMNS)
    rows = [row for case, v in cases for row in instance_rows(case, v)]
    if rows:
        write_table(root / "instances.csv", rows, INSTANCE_COLUMNS)
        write_table(root / SCANS, [scan_row(c, v.instances) for c, v in cases if v.instances is not None], SCAN_COLUMNS)
    else:
        for name in ("instances.csv", SCANS):
            (root / name).unlink(missing_ok=True)


def refuse_foreign_table(out: str | Path) -> None:
    """Refuse an output folder whose ``vertebrae.csv`` is that of an inference or of a data set.

    Raises:
        InputError: when the table would be overwritten.
    """
    path = Path(out) / TABLE
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        columns = file.readline().strip().split(",")
    if columns != list(DECISION_COLUMNS):
        raise InputError(f"{path}: is no table of an evaluation and would be overwritten; choose another --out")


def vertebra_content(summary: VertebraSummary) -> dict[str, object]:
    """Content for ``summary.json``: reliability table, ROC curve and confusion of grades, where there are any."""
    content: dict[str, object] = {}
    if summary.reliability:
        content["reliability"] = [{k: _cell(v) for k, v in asdict(b).items()} for b in summary.reliability]
    if summary.roc:
        content["roc"] = [[None if not np.isfinite(v) else round(v, 6) for v in point] for point in summary.roc]
    if summary.grades is not None:
        content["grades"] = {"rows": "reference grade", "columns": "measured grade", "vertebrae": summary.grades.tolist()}
    return content


def confusion_table(summary: VertebraSummary) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Header and rows of the confusion of grades; no rows without measured grades."""
    header = ("reference grade", *(f"measured {k}" for k in range(4)))
    return header, [] if summary.grades is None else [(f"grade {k}", *map(int, row)) for k, row in enumerate(summary.grades)]


def confusion_lines(summary: VertebraSummary) -> list[str]:
    """Confusion of grades as lines of Markdown; none without measured grades."""
    header, rows = confusion_table(summary)
    table = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return ["", f"| {' | '.join(header)} |", "| --- " * len(header) + "|", *table] if rows else []
