# SPDX-License-Identifier: Apache-2.0
"""Page of a benchmark on VerSe: runs side by side, grades, vertebrae that were not found, and an account of all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..visualization import html_report as html
from .instances import INSTANCE_DEFINITIONS
from .statistics import Estimate
from .verse_cases import BenchmarkCase
from .verse_rates import MAIN, RATE_DEFINITIONS, BenchmarkRates, benchmark_cells
from .verse_run import BenchmarkRun
from .vertebra_decisions import VertebraDecision
from .vertebra_plots import grade_confusion, reliability_diagram, roc
from .vertebra_tables import confusion_table

CELLS = ("value", "95 % interval", "n")
VERTEBRA_CELLS = ("case", "level", "grade by readers", "probability", "grade by height")
SOURCE = (
    "VerSe: Sekuboyina et al. 2021 (doi:10.1016/j.media.2021.102166), Löffler et al. 2020 (doi:10.1148/ryai.2020190138), "
    "Liebl et al. 2021 (doi:10.1038/s41597-021-01060-0)."
)
READING = (
    "The network and the measurement of heights are two methods and are never combined. Intervals are 95 % over patients: for "
    "proportions and areas at each end the wider of the bootstrap and a score interval (Wilson, Newcombe); few: n below 10, from "
    "which little follows; n too small: fewer than 10 patients, for which the bootstrap has no meaning."
)
STYLE = "td, th { vertical-align: top; } table { font-variant-numeric: tabular-nums; } th { background: #f6f8fa; }"


@dataclass
class Benchmark:
    """Runs of a benchmark with their estimates.

    Attributes:
        split: evaluated split.
        cases: all cases of the split, those that are left out with the reason.
        runs: runs with their estimates, by name.
        provenance: options, hashes and versions.
    """

    split: str
    cases: Sequence[BenchmarkCase]
    runs: dict[str, tuple[BenchmarkRun, BenchmarkRates]] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)


def listed(decisions: Sequence[VertebraDecision]) -> dict[str, list[VertebraDecision]]:
    """Vertebrae that the page lists, by title: not found, fractures that are not flagged, intact ones that are."""
    known = [d for d in decisions if d.grade is not None]
    return {
        "not found (no matching instance)": [d for d in decisions if d.missed],
        "grade 2 or 3, found and not flagged": [d for d in known if d.grade and d.grade >= 2 and not d.flagged and not d.missed],
        "grade 1, found and not flagged": [d for d in known if d.grade == 1 and not d.flagged and not d.missed],
        "grade 0 and flagged": [d for d in known if d.grade == 0 and d.flagged],
    }


def _vertebra_cells(decision: VertebraDecision) -> tuple[object, ...]:
    measured = None if decision.missed or decision.record is None else decision.record.measured_grade
    probability = "-" if np.isnan(decision.probability) else f"{decision.probability:.2f}"
    grade = "unknown" if decision.grade is None else decision.grade
    return decision.case, decision.level, grade, probability, "-" if measured is None else measured


def _side_by_side(title: str, runs: Mapping[str, Mapping[str, Estimate]]) -> html.Html:
    """Table of one section with three columns a run."""
    names = dict.fromkeys(name for rows in runs.values() for name in rows)
    header = [title, *(f"{run}: {cell}" if len(runs) > 1 else cell for run in runs for cell in CELLS)]
    lines = []
    for name in names:
        cells = [benchmark_cells(name, rows[name]) if name in rows else ("-", "-", "-") for rows in runs.values()]
        lines.append((name, *(c for three in cells for c in three)))
    return html.table(header, lines)


def _sections(benchmark: Benchmark, part: str) -> list[html.Html]:
    """Tables of ``sections`` or ``folded`` of all runs."""
    parts = {name: getattr(rates, part) for name, (_, rates) in benchmark.runs.items()}
    titles = dict.fromkeys(title for sections in parts.values() for title in sections)
    return [_side_by_side(title, {run: sections.get(title, {}) for run, sections in parts.items()}) for title in titles]


def _run_part(run: BenchmarkRun, rates: BenchmarkRates) -> list[html.Html]:
    """Confusion of grades, figures, and listed vertebrae of one run."""
    header, rows = confusion_table(rates.summary)
    main = next((s for title, s in rates.sections.items() if title.startswith(f"per vertebra: {MAIN}")), {})
    operating = (1 - main["specificity"].value, main["sensitivity"].value) if main else None
    reliability = rates.summary.reliability
    figures = {
        f"Per vertebra, {MAIN} against 0 or 1": roc(rates.summary.roc, main.get("auc"), operating),
        "Grade by measured height against the grade of the readers": grade_confusion(rates.summary.grades),
        f"Probability against the share of vertebrae of {MAIN}": reliability_diagram({MAIN: reliability}) if reliability else None,
    }
    parts = [html.element("h2", run.name.capitalize())]
    if rows:
        parts += [
            html.element("p", "Vertebrae by grade of the readers (rows) and by measured height (columns)."),
            html.table(header, rows),
        ]
    parts += [html.figure(figure, caption, dpi=90) for caption, figure in figures.items() if figure is not None]
    for title, vertebrae in listed(run.decisions).items():
        content = html.table(VERTEBRA_CELLS, map(_vertebra_cells, vertebrae)) if vertebrae else html.element("p", "None.")
        parts.append(html.details(f"{len(vertebrae)} {title}", content))
    return parts


def account_lines(benchmark: Benchmark) -> list[str]:
    """Sentences that count the cases and vertebrae found, used, and left out."""
    used, left_out = [c for c in benchmark.cases if not c.reason], [c for c in benchmark.cases if c.reason]
    rows = [c.row() for c in used]
    total = {k: sum(int(str(r.get(k, 0))) for r in rows) for k in ("in_mask", "graded", "foreign_material", "ungraded")}
    absent = sum(len(str(r.get("graded_not_in_mask", "")).split()) for r in rows)
    return [
        f"{len(benchmark.cases)} scans of split {benchmark.split}: {len(used)} used, of {len({c.patient for c in used})} patients; "
        f"{len(left_out)} left out.",
        f"{total['in_mask']} vertebrae in the masks of the used scans: {total['graded']} with a grade; {total['foreign_material']} "
        f"with foreign material (x) and {total['ungraded']} without a grade, which all rates leave out and the instances count.",
        f"{absent} vertebrae have a grade and are not in the mask; they are left out.",
    ]


def write_page(path: Path, benchmark: Benchmark) -> Path:
    """Write the page, one self-contained file.

    Args:
        path: file.
        benchmark: runs and account.

    Returns:
        ``path``.
    """
    left_out = [(c.name, c.split or "unknown", c.reason) for c in benchmark.cases if c.reason]
    failed = {f"{run.name}: {case}": line for run, _ in benchmark.runs.values() for case, line in run.problems.items()}
    lacking = [f"{run.name}: {run.without_probability} instances without a probability." for run, _ in benchmark.runs.values()]
    parts = [
        html.element("h1", f"Benchmark on VerSe, split {benchmark.split}"),
        html.note(html.RESEARCH),
        html.items([*account_lines(benchmark), *lacking]),
        *([html.note("Scans that failed:", html.definitions(failed))] if failed else []),
        html.element("p", READING),
        *_sections(benchmark, "sections"),
        *(html.details(f"Table {k}", table) for k, table in enumerate(_sections(benchmark, "folded"), 1)),
        *(part for run, rates in benchmark.runs.values() for part in _run_part(run, rates)),
        html.element("h2", "Account of the scans"),
        html.details(f"{len(left_out)} scans left out", html.table(("case", "split", "reason"), left_out)),
        html.element("h2", "Definitions"),
        html.definitions(RATE_DEFINITIONS | INSTANCE_DEFINITIONS),
        html.element("h2", "Provenance"),
        html.element("p", SOURCE),
        html.settings(benchmark.provenance),
    ]
    return html.write_page(path, f"VerSe, {benchmark.split}", parts, STYLE)
