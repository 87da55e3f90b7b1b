# SPDX-License-Identifier: Apache-2.0
"""The tables that a run leaves: ``cases.csv``, ``fractures.csv``, ``findings.csv``, ``summary.json``, ``summary.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..core.files import write_table, write_text
from ..core.provenance import versions
from .aggregation import CaseResult, Summary
from .overlap import DEFINITIONS
from .statistics import Estimate

FRACTURE_COLUMNS = ("case", "patient", "target", "fractured", "grade", "shape", "volume_ml", "coverage", "iou", "found")
FINDING_COLUMNS = ("case", "patient", "finding", "volume_ml", "confidence", "overlap", "right")


def _plain(value: object) -> object:
    """Numbers as JSON and CSV can hold them: rounded, and nothing where there is no number."""
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if np.isfinite(value) else None
    return value


def rules(min_overlap: float) -> str:
    """What every number rests on, in a few sentences."""
    return (
        "On the grid of each reference; 95 % bootstrap interval over patients. An empty reference scores 1 when the prediction\n"
        "is empty too, else 0, unless such cases are excluded (column n); distances are of cases with both masks. A fracture is\n"
        f"found when at least {min_overlap:.0%} of it is marked, a finding is right when at least {min_overlap:.0%} of it lies\n"
        "in fractures."
    )


def markdown(summary: Summary, min_overlap: float, note: str = "") -> str:
    """Summary as Markdown, ready to paste."""
    lines = rules(min_overlap).splitlines()
    if note:
        lines += ["", f"**{note}**"]
    for section, rows in summary.sections.items():
        lines += ["", f"| {section} | value | 95 % interval | n | patients |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {name} | {cells(e)} |" for name, e in rows.items()]
    return "\n".join(lines) + "\n"


def cells(estimate: Estimate) -> str:
    """Columns of an estimate in a Markdown table."""
    n = f"{estimate.n}" + (f" ({estimate.left_out} left out)" if estimate.left_out else "")
    if not np.isfinite(estimate.value):
        return f"- | - | {n} | {estimate.patients}"
    return f"{estimate.value:.3f} | {estimate.low:.3f} to {estimate.high:.3f} | {n} | {estimate.patients}"


def write_tables(
    out: str | Path,
    results: Sequence[CaseResult],
    summary: Summary,
    min_overlap: float,
    facts: Mapping[str, object] | None = None,
    problems: Sequence[str] = (),
) -> None:
    """Write all tables.

    Args:
        out: folder.
        results: cases.
        summary: what ``summarise`` made of them.
        min_overlap: as given to ``summarise``.
        facts: goes into ``summary.json``: options, hashes.
        problems: one line per case that could not be scored.
    """
    root = Path(out)
    rows, fractures, findings = [], [], []
    for r in results:
        row: dict[str, object] = {"case": r.case, "patient": r.patient, **{k: _plain(v) for k, v in r.metrics.items()}}
        if r.detections is not None:
            components = r.detections.components
            hits = [t for t in r.detections.targets if t.fractured]
            row["fractures"] = len(hits)
            row["found"] = sum(t.coverage(components) >= min_overlap for t in hits)
            row["false_positives"] = sum(c.overlap < min_overlap for c in components)
            for t in r.detections.targets:
                covered = t.coverage(components)
                shares = (_plain(covered), _plain(t.iou(components)))
                values = (t.name, int(t.fractured), t.grade, t.shape, _plain(t.volume_ml), *shares)
                fractures.append(
                    dict(zip(FRACTURE_COLUMNS, (r.case, r.patient, *values, int(covered >= min_overlap)), strict=True))
                )
            for k, c in enumerate(components, 1):
                numbers = (
                    k,
                    _plain(c.volume_ml),
                    _plain(c.confidence),
                    _plain(c.overlap),
                    int(c.overlap >= min_overlap),
                )
                findings.append(dict(zip(FINDING_COLUMNS, (r.case, r.patient, *numbers), strict=True)))
        rows.append(row)
    write_table(root / "cases.csv", rows, list(dict.fromkeys(k for row in rows for k in row)))
    if any(r.detections is not None for r in results):
        write_table(root / "fractures.csv", fractures, FRACTURE_COLUMNS)
        write_table(root / "findings.csv", findings, FINDING_COLUMNS)
    total = len(results) + len(problems)
    content = {
        "scored": len(results),
        "of": total,
        "not_scored": list(problems),
        "versions": versions(),
        "definitions": DEFINITIONS,
        "min_overlap": min_overlap,
        **dict(facts or {}),
        "summary": {
            s: {name: {k: _plain(v) for k, v in asdict(e).items()} for name, e in rows.items()}
            for s, rows in summary.sections.items()
        },
        "froc": [[_plain(v) for v in point] for point in summary.froc],
    }
    write_text(root / "summary.json", json.dumps(content, indent=2) + "\n")
    note = (
        f"{len(problems)} of {total} cases could not be scored; the numbers are of the other {len(results)}."
        if problems
        else ""
    )
    write_text(root / "summary.md", markdown(summary, min_overlap, note))
