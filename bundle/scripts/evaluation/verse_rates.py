# SPDX-License-Identifier: Apache-2.0
"""Estimates of a benchmark against the grades of readers: by grade, from grade 2 on, per patient, by region, and kappa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..core.genant import weighted_kappa
from .agreement import GRADES
from .instances import InstanceMatching
from .names import digits
from .statistics import Bootstrap, Estimate
from .tables import estimate_cells
from .vertebra_decisions import VertebraDecision
from .vertebra_summary import Sections, VertebraSummary, graded, summarise_vertebrae

MAIN, ANY = "grade 2 or 3", "grade 1 to 3"
MAIN_SECTION = f"per vertebra: {MAIN} (main analysis)"
RATES = ("sensitivity", "specificity", "ppv", "auc")
DECISIONS, PER_PATIENT = "decisions per vertebra", "decisions per patient"
PER_VERTEBRA = f"{DECISIONS}: all grades"
REGIONS = ("cervical", "thoracic", "lumbar")
RATE_DEFINITIONS = {
    "grade 2 or 3 (main analysis)": "vertebrae with a grade of 2 or 3 by the readers against those with grade 0 or 1",
    "grade 1 to 3": "vertebrae with a grade of 1, 2 or 3 against those with grade 0",
    "flagged, by grade": "share of the vertebrae of a grade that the network flags: the sensitivity for grade 1, 2 and 3, and "
    "1 - specificity for grade 0",
    "not found": "a vertebra without a matching instance is not flagged, ranks below all others, and is listed",
    "without a probability": "an instance whose body the network does not see is not flagged and ranks with probability 0",
    "per patient": "positive with any vertebra of the class, flagged with any flagged one; auc of the highest probability",
    "weighted kappa (quadratic)": "agreement of the grade by measured height with that of the readers (Cohen 1968, "
    "doi:10.1037/h0026256); readers see more than height",
}


@dataclass
class BenchmarkRates:
    """Estimates of one run.

    Attributes:
        sections: estimates by name, by section, in the order of the page.
        folded: sections of many rows, such as those by level.
        summary: ROC curve of the main analysis, reliability of all grades, and the confusion of grades.
    """

    sections: Sections = field(default_factory=dict)
    folded: Sections = field(default_factory=dict)
    summary: VertebraSummary = field(default_factory=VertebraSummary)


def from_grade(decisions: Sequence[VertebraDecision], grade: int) -> list[VertebraDecision]:
    """Decisions whose class is positive from ``grade`` on; those without a grade by readers are left out."""
    return [replace(d, fractured=d.grade >= grade) for d in decisions if d.grade is not None]


def flagged_by_grade(decisions: Sequence[VertebraDecision], samples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """Share of flagged vertebrae by grade of the readers, and in grade 2 and 3 together; absent grades have no row."""
    known = [d for d in decisions if d.grade is not None]
    bootstrap = Bootstrap([d.patient for d in known], samples, seed)
    flagged = np.array([d.flagged for d in known], bool)
    rows = {}
    for name, grades in (*((f"grade {k}", (k,)) for k in range(GRADES)), ("grade 2 or 3", (2, 3))):
        of_grade = np.array([d.grade in grades for d in known], bool)
        if of_grade.any():
            rows[f"{name}: flagged"] = bootstrap.proportion(flagged & of_grade, of_grade)
    return rows


def quadratic_kappa(decisions: Sequence[VertebraDecision], samples: int = 2000, seed: int = 0) -> Estimate:
    """Kappa with quadratic weights of the measured grade and that of the readers, bootstrap over patients."""
    pairs = graded(decisions)
    reference, measured = [r for _, r, _ in pairs], [m for _, _, m in pairs]
    bootstrap = Bootstrap([d.patient for d, _, _ in pairs], samples, seed)
    cells = np.eye(GRADES**2)[np.array(reference, int) * GRADES + np.array(measured, int)]
    weights = np.subtract.outer(np.arange(GRADES), np.arange(GRADES)) ** 2
    tables = bootstrap.totals(cells)[1].reshape(-1, GRADES, GRADES)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :] / tables.sum(axis=(1, 2))[:, None, None]
        resampled = 1 - (weights * tables).sum(axis=(1, 2)) / (weights * expected).sum(axis=(1, 2))
    return bootstrap.estimate(weighted_kappa(reference, measured, GRADES), resampled, len(pairs), len(bootstrap.names))


def benchmark_rates(
    decisions: Sequence[VertebraDecision],
    matchings: Sequence[tuple[str, InstanceMatching]] = (),
    samples: int = 2000,
    seed: int = 0,
) -> BenchmarkRates:
    """Estimates of a run with 95 % intervals over patients; see ``RATE_DEFINITIONS``.

    Args:
        decisions: decisions of all cases; those without a grade by readers enter the instances alone.
        matchings: patient and instances of every case; empty for a network without instances.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """
    main, every = from_grade(decisions, 2), from_grade(decisions, 1)
    rates = BenchmarkRates(summary=summarise_vertebrae(every, matchings, samples, seed))
    of_every, severe = rates.summary.sections, summarise_vertebrae(main, samples=samples, seed=seed)
    rates.summary.roc, of_main = severe.roc, severe.sections
    # The probability is that of any fracture, so its calibration belongs to all grades.
    rates.sections[MAIN_SECTION] = {k: v for k, v in of_main.get(PER_VERTEBRA, {}).items() if k in RATES}
    rates.sections[f"per patient: {MAIN} (main analysis)"] = of_main.get(PER_PATIENT, {})
    rates.sections["flagged, by grade of the readers"] = flagged_by_grade(decisions, samples, seed)
    rates.sections[f"per vertebra: {ANY}"] = of_every.get(PER_VERTEBRA, {})
    rates.sections[f"per patient: {ANY}"] = of_every.get(PER_PATIENT, {})
    for region in REGIONS:
        found = of_main.get(f"{DECISIONS}: {region}", {})
        by_grade = flagged_by_grade([d for d in main if d.region == region], samples, seed)
        rates.sections[f"{region}: {MAIN}"] = {k: v for k, v in (found | by_grade).items() if k != f"{MAIN}: flagged"}
    rates.sections["vertebra instances"] = of_every.get("vertebra instances", {})
    if graded(main):
        kappa = {"weighted kappa (quadratic)": quadratic_kappa(main, samples, seed)}
        rates.sections["measured grade against that of the readers"] = kappa | of_every.get("measured grade", {})
    rates.sections = {title: rows for title, rows in rates.sections.items() if rows}
    folded = {"by level": f"{DECISIONS}: by level", "by shape": f"{DECISIONS}: by shape"}
    rates.folded = {f"{title}, {ANY}": of_every[name] for title, name in folded.items() if name in of_every}
    return rates


def benchmark_cells(name: str, estimate: Estimate) -> tuple[str, str]:
    """Value with 95 % interval, and counts, as text.

    Proportions and areas have score intervals, which hold for any n. Other estimates have the bootstrap over patients alone, and
    none below ``MIN_PATIENTS`` patients: "n too small".
    """
    value, interval, n, patients = estimate_cells(estimate, digits(name))
    shown = value if interval == "-" else f"{value} ({interval})"
    return shown, f"{n}; {patients} patient{'s' if estimate.patients != 1 else ''}"
