# SPDX-License-Identifier: Apache-2.0
"""Tables of a run: ``cases.csv``, ``fractures.csv``, ``detections.csv``, ``summary.json``, ``summary.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..core.files import write_table, write_text
from ..core.provenance import versions
from .aggregation import CaseResult, Summary
from .names import digits, label
from .overlap import METRIC_DEFINITIONS
from .statistics import MIN_PATIENTS, Estimate, interval_text
from .vertebra_summary import VERTEBRA_DEFINITIONS
from .vertebra_tables import confusion_lines, vertebra_content, write_vertebra_tables

FRACTURE_COLUMNS = ("case", "patient", "target", "fractured", "grade", "shape", "volume_ml", "coverage", "iou", "detected")
DETECTION_COLUMNS = ("case", "patient", "detection", "volume_ml", "confidence", "overlap", "true_positive")
ESTIMATE_COLUMNS = ("value", "95 % interval", "n", "patients")
FEW = 10  # observations below which a proportion is marked


def _rounded(value: object) -> object:
    """Number for JSON and CSV: six digits, None for NaN."""
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if np.isfinite(value) else None
    return value


def rules(min_overlap: float) -> str:
    """Conventions behind the numbers, in a few sentences."""
    return (
        "On the grid of each reference. 95 % intervals over patients: of proportions Wilson's, on the number of observations that\n"
        "the likeness within patients leaves; of numbers per scan that of Poisson counts; of AUC the wider of Newcombe's and the\n"
        f'bootstrap; of all others the bootstrap, or "n too small" below {MIN_PATIENTS} patients. few: n below {FEW}, of which\n'
        "little follows. An empty reference scores 1 for an empty prediction, else 0, unless such cases are excluded (column n);\n"
        f"distances need two non-empty masks. A fracture is found when at least {min_overlap:.0%} of it is marked; a marked\n"
        f"region is a true positive when at least {min_overlap:.0%} of it lies in fractures."
    )


def not_scored(problems: Sequence[str], num_scored: int) -> str:
    """Sentence about the cases that could not be scored."""
    total = num_scored + len(problems)
    return f"{len(problems)} of {total} cases could not be scored; the results are those of the other {num_scored}."


def count_text(estimate: Estimate) -> str:
    """Counts of an estimate, such as "11 of 11", "3 in 11 scans", or the number of observations alone."""
    if estimate.events is None:
        return f"{estimate.n}"
    if estimate.per:
        return f"{estimate.events} in {estimate.n} {estimate.per}{'s' if estimate.n != 1 else ''}"
    return f"{estimate.events} of {estimate.n}"


def estimate_cells(estimate: Estimate, places: int = 3) -> tuple[str, str, str, str]:
    """Text of ``ESTIMATE_COLUMNS``, with ``places`` decimal places."""
    n = count_text(estimate)
    n += " (few)" if estimate.events is not None and estimate.n < FEW else ""
    n += f" ({estimate.left_out} left out)" if estimate.left_out else ""
    # Adding 0 turns -0.0, which would be written with its sign, into 0.
    value = f"{round(estimate.value, places) + 0.0:.{places}f}" if np.isfinite(estimate.value) else "-"
    return value, interval_text(estimate, places), n, f"{estimate.patients}"


def section_rows(section: str, estimates: Mapping[str, Estimate]) -> list[tuple[str, ...]]:
    """Rows of a section for readers: plain-language name, and the cells of ``ESTIMATE_COLUMNS``."""
    return [(label(section, name), *estimate_cells(e, digits(name))) for name, e in estimates.items()]


def markdown(summary: Summary, min_overlap: float, note: str = "") -> str:
    """Summary as Markdown."""
    lines = rules(min_overlap).splitlines()
    if note:
        lines += ["", f"**{note}**"]
    for section, rows in summary.sections.items():
        lines += ["", f"| {' | '.join((section, *ESTIMATE_COLUMNS))} |", "| --- " * 5 + "|"]
        lines += [f"| {' | '.join(cells)} |" for cells in section_rows(section, rows)]
    if summary.vertebrae is not None:
        lines += confusion_lines(summary.vertebrae)
    return "\n".join(lines) + "\n"


def case_rows(results: Sequence[CaseResult], min_overlap: float) -> list[dict[str, object]]:
    """Rows of ``cases.csv``: case, patient, metrics, and numbers of fractures, detected fractures and false positives."""
    rows = []
    for r in results:
        row: dict[str, object] = {"case": r.case, "patient": r.patient}
        row |= {k: _rounded(v) for k, v in r.metrics.items()}
        if r.matching is not None:
            detections, fractures = r.matching.detections, r.matching.fractures
            row["fractures"] = len(fractures)
            row["detected"] = sum(t.coverage(detections) >= min_overlap for t in fractures)
            row["false_positives"] = len(detections) - r.matching.true_positives(min_overlap)
        rows.append(row)
    return rows


def _target_rows(result: CaseResult, min_overlap: float) -> list[dict[str, object]]:
    if result.matching is None:
        return []
    detections, rows = result.matching.detections, []
    for t in result.matching.targets:
        coverage = t.coverage(detections)
        shares = (_rounded(t.volume_ml), _rounded(coverage), _rounded(t.iou(detections)))
        cells = (result.case, result.patient, t.name, int(t.fractured), t.grade, t.shape, *shares)
        rows.append(dict(zip(FRACTURE_COLUMNS, (*cells, int(coverage >= min_overlap)), strict=True)))
    return rows


def _detection_rows(result: CaseResult, min_overlap: float) -> list[dict[str, object]]:
    rows = []
    for number, d in enumerate(result.matching.detections if result.matching else [], 1):
        cells = (result.case, result.patient, number, _rounded(d.volume_ml), _rounded(d.confidence), _rounded(d.overlap))
        rows.append(dict(zip(DETECTION_COLUMNS, (*cells, int(d.overlap >= min_overlap)), strict=True)))
    return rows


def write_tables(
    out: str | Path,
    results: Sequence[CaseResult],
    summary: Summary,
    min_overlap: float,
    provenance: Mapping[str, object] | None = None,
    problems: Sequence[str] = (),
) -> None:
    """Write all tables.

    Args:
        out: folder.
        results: cases.
        summary: result of ``aggregate``.
        min_overlap: argument of ``aggregate``.
        provenance: options and hashes for ``summary.json``.
        problems: one line per case that could not be scored.
    """
    root = Path(out)
    rows = case_rows(results, min_overlap)
    write_table(root / "cases.csv", rows, list(dict.fromkeys(k for row in rows for k in row)))
    if any(r.matching is not None for r in results):
        targets = [row for r in results for row in _target_rows(r, min_overlap)]
        write_table(root / "fractures.csv", targets, FRACTURE_COLUMNS)
        detections = [row for r in results for row in _detection_rows(r, min_overlap)]
        write_table(root / "detections.csv", detections, DETECTION_COLUMNS)
    if summary.vertebrae is not None:
        write_vertebra_tables(root, [(r.case, r.vertebrae) for r in results if r.vertebrae is not None])
    content = {
        "scored": len(results),
        "of": len(results) + len(problems),
        "not_scored": list(problems),
        "versions": versions(),
        "definitions": METRIC_DEFINITIONS | (VERTEBRA_DEFINITIONS if summary.vertebrae is not None else {}),
        "min_overlap": min_overlap,
        **dict(provenance or {}),
        "summary": {
            s: {name: {k: _rounded(v) for k, v in asdict(e).items()} for name, e in section.items()}
            for s, section in summary.sections.items()
        },
        "froc": [[_rounded(v) for v in point] for point in summary.froc],
        **(vertebra_content(summary.vertebrae) if summary.vertebrae is not None else {}),
    }
    write_text(root / "summary.json", json.dumps(content, indent=2) + "\n")
    note = not_scored(problems, len(results)) if problems else ""
    write_text(root / "summary.md", markdown(summary, min_overlap, note))
