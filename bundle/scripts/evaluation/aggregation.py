# SPDX-License-Identifier: Apache-2.0
"""From cases to the numbers of a paper: every one with n and an interval over patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .detection import Detections, Target
from .statistics import Bootstrap, Estimate, auc

CASE_METRICS = (
    "dice",
    "iou",
    "iou_with_background",
    "nsd",
    "hd95_mm",
    "assd_mm",
    "volume_error_ml",
    "false_positive_ml",
)
GROUPS = ("all", "fractured", "healthy")


@dataclass
class CaseResult:
    """Everything measured on one case.

    Attributes:
        case: its name.
        patient: its patient.
        metrics: as ``case_metrics`` gives them.
        detections: matched fractures; None where they were not asked for.
    """

    case: str
    patient: str
    metrics: dict[str, float]
    detections: Detections | None = None

    @property
    def fractured(self) -> bool:
        """Whether the reference holds a fracture."""
        return self.metrics["reference_ml"] > 0


@dataclass
class Summary:
    """Numbers of a run by section, and its FROC curve.

    Attributes:
        sections: estimates by name, by section.
        froc: rows of threshold, false positives per scan, sensitivity.
    """

    sections: dict[str, dict[str, Estimate]]
    froc: list[tuple[float, float, float]]


def _cases(results: Sequence[CaseResult], samples: int, seed: int) -> dict[str, dict[str, Estimate]]:
    members = {
        "all": list(results),
        "fractured": [r for r in results if r.fractured],
        "healthy": [r for r in results if not r.fractured],
    }
    sections: dict[str, dict[str, Estimate]] = {}
    for group in GROUPS:
        if members[group]:
            bootstrap = Bootstrap([r.patient for r in members[group]], samples, seed)
            sections[f"cases: {group}"] = {
                m: bootstrap.mean(np.array([r.metrics[m] for r in members[group]])) for m in CASE_METRICS
            }
    return sections


def _has(key: str, value: str, target: Target) -> bool:
    return getattr(target, key) == value


def _fractures(results: Sequence[CaseResult], min_overlap: float, samples: int, seed: int) -> dict[str, Estimate]:
    bootstrap = Bootstrap([r.patient for r in results], samples, seed)
    pairs = [(r.detections, [t for t in r.detections.targets if t.fractured]) for r in results if r.detections]

    def sensitivity(chosen: Callable[[Target], bool]) -> tuple[np.ndarray, np.ndarray]:
        found = [sum(t.coverage(d.components) >= min_overlap for t in ts if chosen(t)) for d, ts in pairs]
        return np.array(found, float), np.array([sum(chosen(t) for t in ts) for _, ts in pairs], float)

    right = np.array([sum(c.overlap >= min_overlap for c in d.components) for d, _ in pairs], float)
    number = np.array([len(d.components) for d, _ in pairs], float)
    found, total = sensitivity(lambda t: True)
    rows = {"sensitivity": bootstrap.ratio(found, total), "ppv": bootstrap.ratio(right, number)}
    (s, s_drawn), (p, p_drawn) = bootstrap.ratios(found, total), bootstrap.ratios(right, number)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * s * p / (s + p) if s + p > 0 else (0.0 if np.isfinite(s + p) else float("nan"))
        f1_drawn = np.where(s_drawn + p_drawn > 0, 2 * s_drawn * p_drawn / (s_drawn + p_drawn), 0.0)
        f1_drawn[~np.isfinite(s_drawn + p_drawn)] = np.nan
    rows["f1"] = bootstrap.estimate(f1, f1_drawn, int(total.sum()), rows["sensitivity"].patients)
    rows["false positives per scan"] = bootstrap.mean(number - right)
    targets = [t for _, ts in pairs for t in ts]
    for label, key in (("grade", "grade"), ("shape", "shape"), ("level", "name")):
        if key == "name" and not any(d.instances for d, _ in pairs):
            continue
        values = dict.fromkeys(getattr(t, key) for t in targets if getattr(t, key))
        for value in sorted(values) if key != "name" else values:
            rows[f"sensitivity, {label} {value}"] = bootstrap.ratio(*sensitivity(partial(_has, key, value)))
    return rows


def _vertebrae(results: Sequence[CaseResult], min_overlap: float, samples: int, seed: int) -> dict[str, Estimate]:
    """Vertebra by vertebra, where instances exist: a vertebra is called fractured when enough of it is marked."""
    chosen = [r for r in results if r.detections is not None and r.detections.instances]
    if not chosen:
        return {}
    bootstrap = Bootstrap([r.patient for r in chosen], samples, seed)
    counts = np.zeros((4, len(chosen)))
    for k, result in enumerate(chosen):
        assert result.detections is not None
        for target in result.detections.targets:
            called = target.coverage(result.detections.components) >= min_overlap
            counts[:, k] += [
                called and target.fractured,
                target.fractured,
                not called and not target.fractured,
                not target.fractured,
            ]
    rows = {"sensitivity": bootstrap.ratio(counts[0], counts[1]), "specificity": bootstrap.ratio(counts[2], counts[3])}
    (a, a_drawn), (b, b_drawn) = bootstrap.ratios(counts[0], counts[1]), bootstrap.ratios(counts[2], counts[3])
    n = int(counts[1].sum() + counts[3].sum())
    rows["balanced accuracy"] = bootstrap.estimate((a + b) / 2, (a_drawn + b_drawn) / 2, n, len(bootstrap.names))
    return rows


def patient_scores(results: Sequence[CaseResult]) -> dict[str, tuple[bool, float]]:
    """Per patient whether there is a fracture, and the highest confidence of a component in any scan (0 without one)."""
    scores: dict[str, tuple[bool, float]] = {}
    for result in results:
        fractured, score = scores.get(result.patient, (False, 0.0))
        found = [c.confidence for c in result.detections.components] if result.detections else []
        scores[result.patient] = (fractured or result.fractured, max([score, *found]))
    return scores


def _patients(results: Sequence[CaseResult], samples: int, seed: int) -> dict[str, Estimate]:
    scores = patient_scores(results)
    positive = np.array([f for f, _ in scores.values()], bool)
    score = np.array([s for _, s in scores.values()])
    bootstrap = Bootstrap(list(scores), samples, seed)
    # ``Bootstrap`` sorts patients; the observations keep their own order.
    called = score > 0
    return {
        "sensitivity": bootstrap.ratio(called & positive, positive),
        "specificity": bootstrap.ratio(~called & ~positive, ~positive),
        "auc": bootstrap.statistic(lambda w: auc(score, positive, w), len(scores)),
    }


def froc_curve(results: Sequence[CaseResult], min_overlap: float) -> list[tuple[float, float, float]]:
    """Sensitivity for fractures against false positives per scan, as the confidence that a component needs falls."""
    cases = [r.detections for r in results if r.detections is not None]
    fractures = [(d, t) for d in cases for t in d.targets if t.fractured]
    if not cases or not fractures:
        return []
    findings = [c for d in cases for c in d.components]
    thresholds = np.unique([c.confidence for c in findings])[::-1]
    false = np.sort([c.confidence for c in findings if c.overlap < min_overlap])
    found = np.sort([t.found_at(d.components, min_overlap) for d, t in fractures])
    # How many lie at or above each threshold.
    below = [np.searchsorted(values, thresholds, side="left") for values in (false, found)]
    rates = ((len(false) - below[0]) / len(cases), (len(found) - below[1]) / len(fractures))
    return [(float(t), float(f), float(s)) for t, f, s in zip(thresholds, *rates, strict=True)]


def summarise(results: Sequence[CaseResult], min_overlap: float = 0.5, samples: int = 2000, seed: int = 0) -> Summary:
    """Summarise a run.

    Args:
        results: its cases.
        min_overlap: share of a fracture that must be marked for it to count as found, and share of a component that must lie in
            fractures for it to count as right.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        ValueError: when there is no case.
    """
    if not results:
        raise ValueError("summarise: there is no case; score at least one pair of masks")
    sections = _cases(results, samples, seed)
    with_targets = [r for r in results if r.detections is not None]
    if with_targets:
        sections["fractures"] = _fractures(with_targets, min_overlap, samples, seed)
        vertebrae = _vertebrae(with_targets, min_overlap, samples, seed)
        if vertebrae:
            sections["vertebrae"] = vertebrae
        sections["patients"] = _patients(with_targets, samples, seed)
    return Summary(sections, froc_curve(with_targets, min_overlap))
