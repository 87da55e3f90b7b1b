# SPDX-License-Identifier: Apache-2.0
"""``report.html`` of an evaluation: headline, estimates, figures and the worst cases on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..core.files import atomic_write
from ..core.provenance import versions
from ..visualization import html_report as html
from .aggregation import CaseResult, Summary
from .headline import headline
from .overlap import METRIC_DEFINITIONS
from .plots import case_boxes, froc, froc_left_out, volume_agreement
from .tables import ESTIMATE_COLUMNS, rules, section_rows
from .vertebra_plots import grade_confusion, reliability_diagram, roc
from .vertebra_summary import VERTEBRA_DEFINITIONS, VertebraSummary
from .vertebra_tables import confusion_table

WORST_COLUMNS = ("case", "DSC", "reference (ml)", "prediction (ml)", "false positive (ml)")


def worst_cases(results: Sequence[CaseResult], number: int = 6) -> list[CaseResult]:
    """Cases with the lowest DSC, ties by falling false-positive volume: at most ``number`` and half of all, rounded up.

    Cases with a DSC of 1 are not among them, and cases without DSC are left out.
    """
    scored = [r for r in results if np.isfinite(r.metrics["dice"])]
    ordered = sorted(scored, key=lambda r: (r.metrics["dice"], -r.metrics["false_positive_ml"]))
    return [r for r in ordered[: min(number, (len(ordered) + 1) // 2)] if r.metrics["dice"] < 1]


def _vertebra_figures(vertebrae: VertebraSummary | None) -> dict[str, tuple[Figure | None, str]]:
    """Figures per vertebra with their captions; None for a figure that does not apply."""
    vertebrae = vertebrae or VertebraSummary()
    rates = vertebrae.sections.get("decisions per vertebra: all grades", {})
    operating = (1 - rates["specificity"].value, rates["sensitivity"].value) if rates else None
    diagram = reliability_diagram({"Reliability": vertebrae.reliability}) if vertebrae.reliability else None
    return {
        "roc.png": (roc(vertebrae.roc, rates.get("auc"), operating), "Sensitivity against 1 - specificity, per vertebra"),
        "reliability.png": (diagram, "Probability of a fracture against the fraction of fractured vertebrae"),
        "grades.png": (grade_confusion(vertebrae.grades), "Measured grade against the grade of the reference"),
    }


def _figures(folder: Path, results: Sequence[CaseResult], summary: Summary) -> list[html.Html]:
    """Draw the figures into a folder; figures of an earlier run that do not apply are removed."""
    figures = {
        "boxes.png": (case_boxes(results), "Scores by case"),
        "froc.png": (froc(summary), "Fractures found against false positives per scan, by falling confidence threshold"),
        "volumes.png": (volume_agreement(results), "Agreement of volumes"),
        **_vertebra_figures(summary.vertebrae),
    }
    parts = []
    for name, (figure, caption) in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
            continue
        content = html.png(figure)
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)
        parts.append(html.figure(content, caption))
    return parts


def write_evaluation_report(
    out: str | Path,
    results: Sequence[CaseResult],
    summary: Summary,
    min_overlap: float,
    provenance: Mapping[str, object] | None = None,
    problems: Sequence[str] = (),
    pictures: Mapping[str, Path] | None = None,
) -> Path:
    """Write the figures into ``out/plots`` and ``out/report.html``, which embeds them.

    Args:
        out: folder.
        results: cases.
        summary: result of ``aggregate``.
        min_overlap: argument of ``aggregate``.
        provenance: options and hashes, printed at the end.
        problems: one line per case that could not be scored.
        pictures: overlays by case, embedded for the worst cases.

    Returns:
        Path of the page.
    """
    root = Path(out)
    worst = worst_cases(results)
    millilitres = ("reference_ml", "prediction_ml", "false_positive_ml")
    rows = [(r.case, f"{r.metrics['dice']:.3f}", *(f"{r.metrics[k]:.2f}" for k in millilitres)) for r in worst]
    drawn = {r.case: (pictures or {}).get(r.case) for r in worst}
    gallery = [
        html.figure(path, f"{r.case}: DSC {r.metrics['dice']:.3f}")
        for r in worst
        if (path := drawn[r.case]) is not None and path.is_file()
    ]
    total = len(results) + len(problems)
    problem_note = html.note(f"{len(problems)} of {total} cases could not be scored:", html.items(problems))
    vertebrae = summary.vertebrae
    header, confusion = confusion_table(vertebrae) if vertebrae is not None else ((), [])
    details = {**dict(provenance or {}), "versions": ", ".join(f"{k} {v}" for k, v in versions().items())}
    parts = [
        html.element("h1", f"Evaluation of {len(results)} scan{'s' if len(results) != 1 else ''}"),
        headline(results, summary, problems, provenance or {}),
        *([problem_note] if problems else []),
        *(
            html.table((section, *ESTIMATE_COLUMNS), section_rows(section, estimates))
            for section, estimates in summary.sections.items()
        ),
        *([html.table(header, confusion)] if confusion else []),
        html.element("h2", "Figures"),
        *_figures(root / "plots", results, summary),
        *([html.element("p", why)] if (why := froc_left_out(summary)) else []),
        html.element("h2", f"Worst {len(rows)} of {len(results)} cases, by DSC"),
        html.table(WORST_COLUMNS, rows) if rows else html.element("p", "Every scored case has a DSC of 1."),
        *gallery,
        html.element("h2", "How to read the numbers"),
        html.element("p", rules(min_overlap)),
        html.details("Definitions", html.definitions(METRIC_DEFINITIONS | (VERTEBRA_DEFINITIONS if vertebrae is not None else {}))),
        html.details("Provenance: options, hashes, versions", html.settings(details)),
    ]
    return html.write_page(root / "report.html", "Evaluation", parts)
