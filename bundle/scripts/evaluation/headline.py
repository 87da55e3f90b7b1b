# SPDX-License-Identifier: Apache-2.0
"""Headline of an evaluation: its main numbers with counts and intervals, its data, its weights and its date, before all tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from ..visualization import html_report as html
from .aggregation import CaseResult, Summary
from .names import digits
from .statistics import Estimate, interval_text
from .tables import count_text

DECISIONS, BY_MASK, BY_VOLUME = "decisions per vertebra: all grades", "fractures", "vertebrae"
SHORT_HASH = 12  # characters
Line = tuple[str, str]


def rate_text(estimate: Estimate) -> str:
    """Counts, then per cent with the interval."""
    if not np.isfinite(estimate.value):
        return f"{count_text(estimate)}: no value"
    return f"{count_text(estimate)} ({100 * estimate.value:.0f} %; 95 % interval {interval_text(estimate, 0, 100)} %)"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _mean(name: str, estimate: Estimate) -> str:
    places = digits(name)
    return f"{estimate.value:.{places}f} (95 % interval {interval_text(estimate, places)}; n = {_plural(estimate.n, 'scan')})"


def result_lines(summary: Summary) -> list[Line]:
    """Main numbers by name: DSC, fractures found, false positives per scan, and specificity where there is one."""
    sections, lines = summary.sections, list[Line]()
    for section, words in (("cases: fractured", "scans with a fracture"), ("cases: healthy", "scans without a fracture")):
        estimate = sections.get(section, {}).get("dice")
        if estimate is None or not np.isfinite(estimate.value):
            continue
        if estimate.events is not None and "healthy" in section:  # 1 for an empty prediction, else 0
            lines.append((f"Nothing marked, {words}", rate_text(estimate)))
        else:
            lines.append((f"Dice (DSC), {words}", _mean("dice", estimate)))
    decisions, fractures = sections.get(DECISIONS, {}), sections.get(BY_MASK, {})
    if "sensitivity" in decisions:
        lines.append(("Fractured vertebrae flagged", rate_text(decisions["sensitivity"])))
        lines.append(("Intact vertebrae not flagged", rate_text(decisions["specificity"])))
    if "sensitivity" in fractures:
        lines.append(("Fractures found by the mask", rate_text(fractures["sensitivity"])))
    if "false positives per scan" in fractures:
        e = fractures["false positives per scan"]
        text = f"{e.value:.2f} ({count_text(e)}; 95 % interval {interval_text(e, 2)})"
        lines.append(("False positives per scan", text))
    return lines


def source_lines(results: Sequence[CaseResult], problems: Sequence[str], provenance: Mapping[str, object]) -> list[Line]:
    """Number of scans and patients, data, predictions or weights with hashes, and date."""
    fractured, patients = sum(r.fractured for r in results), len({r.patient for r in results})
    counts = f"{_plural(len(results), 'scan')} of {_plural(patients, 'patient')}, {fractured} with a fracture"
    lines = [("n", counts + (f"; {len(problems)} not scored" if problems else ""))]
    for name, keys in (("Data", ("references", "datalist")), ("Weights", ("checkpoint",)), ("Predictions", ("predictions",))):
        for key in keys:
            if value := provenance.get(key):
                digest = str(provenance.get(f"{key}_sha256") or "")[:SHORT_HASH]
                path = Path(str(value))
                shown = "/".join(path.parts[-2:]) if path.name == "datalist.json" else path.name
                lines.append((name, shown + (f" (SHA-256 {digest})" if digest else "")))
    if given := provenance.get("given_vertebrae"):
        lines.append(("Vertebrae", f"given to inference as masks in {_plural(int(str(given)), 'scan')}: "
                      "overlap and instances are those of these masks, and only the decisions are the network's"))  # fmt: skip
    made = provenance.get("created") or datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return [*lines, ("Date", str(made))]


def headline(
    results: Sequence[CaseResult], summary: Summary, problems: Sequence[str], provenance: Mapping[str, object]
) -> html.Html:
    """Box at the top of a report; for research use only."""
    return html.headline([*result_lines(summary), *source_lines(results, problems, provenance)])
