# SPDX-License-Identifier: Apache-2.0
"""Page of a benchmark on VerSe: runs side by side, grades, vertebrae that were not found, and an account of all cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..visualization import html_report as html
from .agreement import GRADES
from .headline import rate_text
from .instances import INSTANCE_DEFINITIONS
from .names import label
from .statistics import Estimate, interval_text
from .verse_cases import REASONS, BenchmarkCase
from .verse_rates import ANY, MAIN, MAIN_SECTION, RATE_DEFINITIONS, BenchmarkRates, benchmark_cells
from .verse_run import BenchmarkRun
from .vertebra_decisions import VertebraDecision
from .vertebra_plots import grade_confusion, reliability_diagram, roc

CELLS = ("value (95 % interval)", "n")
HEIGHTS = tuple(f"height: grade {k}" for k in range(GRADES))
GRADE_COLUMNS = ("grade by readers", *HEIGHTS, "no grade by height", "not found", "all", "flagged by the network")
INSTANCE_CELLS = ("case", "instance", "probability", "reason")
VERTEBRA_CELLS = ("case", "level", "grade by readers", "probability", "grade by height")
SOURCE = (
    "VerSe: Sekuboyina et al. 2021 (doi:10.1016/j.media.2021.102166), Löffler et al. 2020 (doi:10.1148/ryai.2020190138), "
    "Liebl et al. 2021 (doi:10.1038/s41597-021-01060-0)."
)
READING = (
    "The network and the measurement of heights are two methods and are never combined. Intervals are 95 % over patients: of "
    "proportions Wilson's, on the number of vertebrae that the likeness within patients leaves; of areas at each end the wider of "
    "Newcombe's and the bootstrap; of all others the bootstrap. few: n below 10, from which little follows; n too small: fewer "
    "than 10 patients, for which the bootstrap has no meaning."
)
STYLE = """
table { font-variant-numeric: tabular-nums; } td, th { vertical-align: top; } th { background: #f6f8fa; }
.runs1, .runs2 { width: 100%; } .runs1 { max-width: 46rem; }
.runs1 td, .runs2 td { white-space: nowrap; } .runs1 td:first-child, .runs2 td:first-child { white-space: normal; width: 24%; }
.grades { display: flex; flex-wrap: wrap; gap: 0 2rem; }
"""


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


def grade_rows(decisions: Sequence[VertebraDecision]) -> list[tuple[object, ...]]:
    """Rows of ``GRADE_COLUMNS``, one a grade of the readers: numbers of vertebrae, which add up to ``all``."""
    rows = []
    for grade in range(GRADES):
        group = [d for d in decisions if d.grade == grade]
        found = [None if d.record is None else d.record.measured_grade for d in group if not d.missed]
        by_height = [found.count(k) for k in (*range(GRADES), None)]
        rows.append((f"grade {grade}", *by_height, sum(d.missed for d in group), len(group), sum(d.flagged for d in group)))
    return rows


def _vertebra_cells(decision: VertebraDecision) -> tuple[object, ...]:
    measured = None if decision.missed or decision.record is None else decision.record.measured_grade
    probability = "-" if np.isnan(decision.probability) else f"{decision.probability:.2f}"
    grade = "unknown" if decision.grade is None else decision.grade
    return decision.case, decision.level, grade, probability, "-" if measured is None else measured


def _side_by_side(title: str, runs: Mapping[str, Mapping[str, Estimate]]) -> html.Html:
    """Table of one section with two columns a run; runs without the section are left out."""
    runs = {name: rows for name, rows in runs.items() if rows}
    names = dict.fromkeys(name for rows in runs.values() for name in rows)
    header = [html.element("th", title), *(html.element("th", run, colspan=str(len(CELLS))) for run in runs)]
    units = [html.element("th", cell) for cell in ("", *CELLS * len(runs))]
    lines = [html.element("tr", *header), html.element("tr", *units)]
    for name in names:
        cells = [benchmark_cells(name, rows[name]) if name in rows else ("-",) * len(CELLS) for rows in runs.values()]
        texts = (label(title, name), *(c for pair in cells for c in pair))
        lines.append(html.element("tr", *(html.element("td", c) for c in texts)))
    return html.element("table", *lines, class_=f"runs{len(runs)}")


def _sections(benchmark: Benchmark, part: str) -> dict[str, html.Html]:
    """Tables of ``sections`` or ``folded`` of all runs by title."""
    parts = {name: getattr(rates, part) for name, (_, rates) in benchmark.runs.items()}
    titles = dict.fromkeys(title for sections in parts.values() for title in sections)
    return {title: _side_by_side(title, {run: sections.get(title, {}) for run, sections in parts.items()}) for title in titles}


def _run_part(run: BenchmarkRun, rates: BenchmarkRates) -> list[html.Html]:
    """Confusion of grades, figures, and listed vertebrae of one run."""
    main = rates.sections.get(MAIN_SECTION, {})
    operating = (1 - main["specificity"].value, main["sensitivity"].value) if main else None
    reliability = rates.summary.reliability
    figures = {
        f"Per vertebra, {MAIN} against 0 or 1": roc(rates.summary.roc, main.get("auc"), operating),
        "Grade by measured height against the grade of the readers": grade_confusion(rates.summary.grades),
        f"Probability against the share of vertebrae of {ANY}": reliability_diagram({ANY: reliability}) if reliability else None,
    }
    parts = [html.element("h2", run.name.capitalize()), html.table(GRADE_COLUMNS, grade_rows(run.decisions))]
    drawn = [html.figure(figure, caption, dpi=80) for caption, figure in figures.items() if figure is not None]
    parts.append(html.element("div", *drawn, class_="grades"))
    for title, vertebrae in listed(run.decisions).items():
        content = html.table(VERTEBRA_CELLS, map(_vertebra_cells, vertebrae)) if vertebrae else html.element("p", "None.")
        parts.append(html.details(f"{len(vertebrae)} {title}", content))
    if run.unmatched:
        rows = [(u.case, u.instance, f"{u.probability:.2f}", u.result) for u in run.unmatched]
        title = f"{len(rows)} flagged instances that match no vertebra of the reference, which no rate counts"
        parts.append(html.details(title, html.table(INSTANCE_CELLS, rows)))
    return parts


def account_lines(benchmark: Benchmark) -> list[str]:
    """Sentences that count the scans and vertebrae found, used, and left out with the reasons."""
    used = [c for c in benchmark.cases if not c.reason]
    reasons = Counter(c.reason if c.reason in REASONS else "cannot be read or failed" for c in benchmark.cases if c.reason)
    rows = [c.row() for c in used]
    total = {k: sum(int(str(r.get(k, 0))) for r in rows) for k in ("in_mask", "graded", "foreign_material", "ungraded")}
    absent = sum(len(str(r.get("graded_not_in_mask", "")).split()) for r in rows)
    left_out = ", ".join(f"{n} with {reason}" if reason in REASONS else f"{n} that {reason}" for reason, n in reasons.most_common())
    return [
        f"Scans of split {benchmark.split}: {sum(bool(c.ct or c.mask) for c in benchmark.cases)} found, {len(used)} used; "
        f"patients: {len({c.patient for c in used})}.",
        f"Left out, of those found or listed in the table: {left_out or 'none'}.",
        f"{total['in_mask']} vertebrae in the masks of the used scans: {total['graded']} with a grade; {total['foreign_material']} "
        f"with foreign material (x) and {total['ungraded']} without a grade, which all rates leave out and the instances count.",
        f"Vertebrae with a grade that are not in the mask, left out: {absent}.",
    ]


def _headline_lines(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Main rates of every run."""
    lines = []
    for run, rates in benchmark.runs.values():
        main = rates.sections.get(MAIN_SECTION, {})
        for name, words in (("sensitivity", "Grade 2 or 3, flagged"), ("specificity", "Grade 0 or 1, not flagged")):
            if name in main:
                lines.append((f"{words}, {run.name}", rate_text(main[name])))
        if "auc" in main and np.isfinite(main["auc"].value):
            area = main["auc"]
            lines.append((f"AUC, {run.name}", f"{area.value:.3f} (95 % interval {interval_text(area)}; n = {area.n} vertebrae)"))
        false = sum(u.result == "false positive" for u in run.unmatched)
        false += sum(d.flagged and d.grade == 0 for d in run.decisions)
        if scans := len(run.cases):
            text = f"{false / scans:.2f} ({false} in {scans} scan{'s' if scans != 1 else ''}; grade 0, or no vertebra)"
            lines.append((f"False positives per scan, {run.name}", text))
    return lines


def _origin_lines(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Number of scans, data and date."""
    used = [c for c in benchmark.cases if not c.reason]
    digest = str(benchmark.provenance.get("data_sha256") or "")[:12]
    return [
        ("n", f"{len(used)} scans of {len({c.patient for c in used})} patients"),
        ("Data", f"VerSe 2019, split {benchmark.split}" + (f" (SHA-256 {digest})" if digest else "")),
        ("Version", str(benchmark.provenance.get("version"))),
        ("Date", str(benchmark.provenance.get("created"))),
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
    lacking = [f"{run.name.capitalize()}: {run.without_probability} without a probability." for run, _ in benchmark.runs.values()]
    hashes = benchmark.provenance.get("weights_sha256")
    weights = ", ".join(f"{k} ({str(v)[:12]})" for k, v in hashes.items()) if isinstance(hashes, Mapping) else "unknown"
    parts = [
        html.element("h1", f"Benchmark on VerSe, split {benchmark.split}"),
        html.note(html.RESEARCH),
        html.headline([*_headline_lines(benchmark), ("Weights", weights), *_origin_lines(benchmark)]),
        html.items([*account_lines(benchmark), *lacking]),
        *([html.note("Scans that failed:", html.definitions(failed))] if failed else []),
        html.element("p", READING),
        *_sections(benchmark, "sections").values(),
        *(html.details(title.capitalize(), table) for title, table in _sections(benchmark, "folded").items()),
        *(part for run, rates in benchmark.runs.values() for part in _run_part(run, rates)),
        html.element("h2", "Account of the scans"),
        html.details(f"{len(left_out)} scans left out", html.table(("case", "split", "reason"), left_out)),
        html.details("Definitions", html.definitions(RATE_DEFINITIONS | INSTANCE_DEFINITIONS)),
        html.details("Provenance", html.settings(benchmark.provenance)),
        html.element("p", SOURCE),
    ]
    return html.write_page(path, f"VerSe, {benchmark.split}", parts, STYLE)
