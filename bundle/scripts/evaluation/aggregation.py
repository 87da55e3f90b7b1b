# SPDX-License-Identifier: Apache-2.0
"""Aggregation of cases to the numbers of a paper, each with its sample size and an interval over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..core.vertebrae import LABELS
from .detection import Matching, Target
from .statistics import Bootstrap, Estimate, widened
from .vertebra_decisions import CaseVertebrae
from .vertebra_summary import VertebraSummary, summarise_vertebrae

CASE_METRICS = ("dice", "iou", "iou_with_background", "nsd", "hd95_mm", "assd_mm", "volume_error_ml", "false_positive_ml")
OVERLAPS = ("dice", "iou", "nsd")


@dataclass
class CaseResult:
    """Metrics and detections of one case.

    Attributes:
        case: name of the case.
        patient: name of the patient.
        metrics: result of ``case_metrics``.
        matching: result of ``match_case``; None for segmentation metrics only.
        vertebrae: decisions per vertebra; None without reference instances.
    """

    case: str
    patient: str
    metrics: dict[str, float]
    matching: Matching | None = None
    vertebrae: CaseVertebrae | None = None

    @property
    def fractured(self) -> bool:
        """True for a reference with a fracture."""
        return self.metrics["reference_ml"] > 0


@dataclass
class Summary:
    """Estimates of a run by section, and its FROC curve.

    Attributes:
        sections: estimates by name, by section: "cases: all", "cases: fractured", "cases: healthy", "fractures", "vertebrae" (with
            instances), "patients", and those of ``vertebrae``.
        froc: rows of confidence threshold, false positives per scan, sensitivity.
        vertebrae: decisions, instances and calibration; None without reference instances.
    """

    sections: dict[str, dict[str, Estimate]]
    froc: list[tuple[float, float, float]]
    vertebrae: VertebraSummary | None = None


def _mean_and_f1(
    bootstrap: Bootstrap, first: tuple[NDArray, NDArray], second: tuple[NDArray, NDArray], n: int, patients: int
) -> tuple[Estimate, Estimate]:
    """Arithmetic and harmonic mean of two proportions on the same resamples: balanced accuracy, F1.

    Each interval has at least the width that those of the two proportions imply.
    """
    (a, resampled_a), (b, resampled_b) = bootstrap.ratios(*first), bootstrap.ratios(*second)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * a * b / (a + b) if a + b > 0 else (0.0 if np.isfinite(a + b) else float("nan"))
        total = resampled_a + resampled_b
        resampled_f1 = np.where(total > 0, 2 * resampled_a * resampled_b / total, 0.0)
        resampled_f1[~np.isfinite(total)] = np.nan
    one, other = bootstrap.proportion(*first), bootstrap.proportion(*second)
    # Two independent proportions (method of variance estimates recovery, Zou and Donner 2008, doi:10.1002/sim.3095).
    low, high = (float(np.hypot(getattr(one, k) - a, getattr(other, k) - b)) / 2 for k in ("low", "high"))
    mean = widened(bootstrap.estimate((a + b) / 2, total / 2, n, patients), ((a + b) / 2 - low, (a + b) / 2 + high))
    ends = tuple(2 * x * y / (x + y) if x + y > 0 else 0.0 for x, y in ((one.low, other.low), (one.high, other.high)))
    return mean, widened(bootstrap.estimate(f1, resampled_f1, n, patients), (ends[0], ends[1]))


def _case_mean(bootstrap: Bootstrap, metric: str, values: NDArray) -> Estimate:
    """Mean of a metric; an overlap that is 0 or 1 in every case, as without a fracture, is a proportion."""
    present = np.isfinite(values)
    if metric in OVERLAPS and present.any() and np.isin(values[present], (0, 1)).all():
        estimate = bootstrap.proportion(np.where(present, values, 0.0), present)
        return replace(estimate, left_out=int((~present).sum()))
    return bootstrap.mean(values)


def _cases(results: Sequence[CaseResult], samples: int, seed: int) -> dict[str, dict[str, Estimate]]:
    groups = {
        "all": list(results),
        "fractured": [r for r in results if r.fractured],
        "healthy": [r for r in results if not r.fractured],
    }
    sections: dict[str, dict[str, Estimate]] = {}
    for name, group in groups.items():
        if group:
            bootstrap = Bootstrap([r.patient for r in group], samples, seed)
            values = {m: np.array([r.metrics[m] for r in group]) for m in CASE_METRICS}
            sections[f"cases: {name}"] = {m: _case_mean(bootstrap, m, v) for m, v in values.items()}
    return sections


def _anatomical(level: str) -> float:
    """Rank of a level from head to feet; T13 lies between T12 and L1."""
    return 19.5 if level == "T13" else float(LABELS.get(level, 99))


def _has(attribute: str, value: str, target: Target) -> bool:
    return getattr(target, attribute) == value


def _matchings(results: Sequence[CaseResult]) -> list[Matching]:
    return [r.matching for r in results if r.matching is not None]


def _fractures(results: Sequence[CaseResult], min_overlap: float, samples: int, seed: int) -> dict[str, Estimate]:
    bootstrap, matchings = Bootstrap([r.patient for r in results], samples, seed), _matchings(results)

    def counts(included: Callable[[Target], bool] = lambda t: True) -> tuple[NDArray, NDArray]:
        """Detected fractures and all fractures of every scan."""
        fractures = [(m, [t for t in m.fractures if included(t)]) for m in matchings]
        detected = [sum(t.coverage(m.detections) >= min_overlap for t in ts) for m, ts in fractures]
        return np.array(detected, float), np.array([len(ts) for _, ts in fractures], float)

    true_positives = np.array([m.true_positives(min_overlap) for m in matchings], float)
    num_detections = np.array([len(m.detections) for m in matchings], float)
    detected, total = counts()
    rows = {"sensitivity": bootstrap.proportion(detected, total), "ppv": bootstrap.proportion(true_positives, num_detections)}
    pair = (detected, total), (true_positives, num_detections)
    rows["f1"] = _mean_and_f1(bootstrap, *pair, int(total.sum()), rows["sensitivity"].patients)[1]
    rows["false positives per scan"] = bootstrap.count(num_detections - true_positives)
    targets = [t for m in matchings for t in m.fractures]
    for label, attribute in (("grade", "grade"), ("shape", "shape"), ("level", "name")):
        if attribute == "name" and not any(m.instances for m in matchings):
            continue
        values = dict.fromkeys(getattr(t, attribute) for t in targets if getattr(t, attribute))
        for value in sorted(values, key=_anatomical if attribute == "name" else None):
            rows[f"sensitivity, {label} {value}"] = bootstrap.proportion(*counts(partial(_has, attribute, value)))
    return rows


def _vertebrae(results: Sequence[CaseResult], min_overlap: float, samples: int, seed: int) -> dict[str, Estimate]:
    """Classification of vertebrae: positive from ``min_overlap`` of the volume on."""
    bootstrap, matchings = Bootstrap([r.patient for r in results], samples, seed), _matchings(results)
    counts = np.zeros((4, len(matchings)))  # true positives, positives, true negatives, negatives
    for k, matching in enumerate(matchings):
        for target in matching.targets:
            positive = target.coverage(matching.detections) >= min_overlap
            fractured = target.fractured
            counts[:, k] += [positive and fractured, fractured, not positive and not fractured, not fractured]
    positives, negatives = (counts[0], counts[1]), (counts[2], counts[3])
    n = int(counts[1].sum() + counts[3].sum())
    return {
        "sensitivity": bootstrap.proportion(*positives),
        "specificity": bootstrap.proportion(*negatives),
        "balanced accuracy": _mean_and_f1(bootstrap, positives, negatives, n, len(bootstrap.names))[0],
    }


def patient_scores(results: Sequence[CaseResult]) -> dict[str, tuple[bool, float]]:
    """Class and score by patient: a fracture in any scan, and the highest confidence of all detections (0 without one)."""
    scores: dict[str, tuple[bool, float]] = {}
    for result in results:
        fractured, score = scores.get(result.patient, (False, 0.0))
        confidences = [d.confidence for d in result.matching.detections] if result.matching else []
        scores[result.patient] = (fractured or result.fractured, max([score, *confidences]))
    return scores


def _patients(results: Sequence[CaseResult], samples: int, seed: int) -> dict[str, Estimate]:
    scores = patient_scores(results)
    fractured = np.array([f for f, _ in scores.values()], bool)
    score = np.array([s for _, s in scores.values()])
    bootstrap = Bootstrap(list(scores), samples, seed)
    positive = score > 0
    return {
        "sensitivity": bootstrap.proportion(positive & fractured, fractured),
        "specificity": bootstrap.proportion(~positive & ~fractured, ~fractured),
        "auc": bootstrap.auc(score, fractured),
    }


def froc_curve(results: Sequence[CaseResult], min_overlap: float) -> list[tuple[float, float, float]]:
    """Free-response ROC: sensitivity for fractures against false positives per scan, by falling confidence threshold."""
    matchings = _matchings(results)
    fractures = [(m, t) for m in matchings for t in m.fractures]
    if not fractures:
        return []
    detections = [d for m in matchings for d in m.detections]
    thresholds = np.unique([d.confidence for d in detections])[::-1]
    false_positives = np.sort([d.confidence for d in detections if d.overlap < min_overlap])
    detected = np.sort([t.detection_threshold(m.detections, min_overlap) for m, t in fractures])
    below = [np.searchsorted(values, thresholds, side="left") for values in (false_positives, detected)]
    rates = ((len(false_positives) - below[0]) / len(matchings), (len(detected) - below[1]) / len(fractures))
    return [(float(t), float(f), float(s)) for t, f, s in zip(thresholds, *rates, strict=True)]


def aggregate(results: Sequence[CaseResult], min_overlap: float = 0.5, samples: int = 2000, seed: int = 0) -> Summary:
    """Aggregate the cases of a run.

    Args:
        results: results of the cases.
        min_overlap: fraction of a fracture that must be segmented for a detected fracture, and of a detection that must lie in
            fractures for a true positive.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        ValueError: when there is no case.
    """
    if not results:
        raise ValueError("aggregate: there is no case; score at least one pair of masks")
    sections = _cases(results, samples, seed)
    matched = [r for r in results if r.matching is not None]
    if matched:
        sections["fractures"] = _fractures(matched, min_overlap, samples, seed)
        with_instances = [r for r in matched if r.matching is not None and r.matching.instances]
        if with_instances:
            sections["vertebrae"] = _vertebrae(with_instances, min_overlap, samples, seed)
        sections["patients"] = _patients(matched, samples, seed)
    summary = Summary(sections, froc_curve(matched, min_overlap))
    if any(r.vertebrae is not None for r in results):
        decisions = [d for r in results if r.vertebrae is not None for d in r.vertebrae.decisions]
        instances = [
            (r.patient, r.vertebrae.instances) for r in results if r.vertebrae is not None and r.vertebrae.instances is not None
        ]
        summary.vertebrae = summarise_vertebrae(decisions, instances, samples, seed)
        sections |= summary.vertebrae.sections
    return summary
