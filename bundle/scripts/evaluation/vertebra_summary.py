# SPDX-License-Identifier: Apache-2.0
"""Estimates per vertebra and per patient: decisions, calibration, instances, and measured grades and heights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..core.genant import SHAPES
from .agreement import AGREEMENT_DEFINITIONS, confusion, grade_agreement, limits_of_agreement
from .calibration import BINS, CALIBRATION_DEFINITIONS, ReliabilityBin, bin_of, reliability
from .instances import INSTANCE_DEFINITIONS, InstanceMatching
from .statistics import Bootstrap, Estimate, widened
from .vertebra_decisions import DECISION_RULES, VertebraDecision

Sections = dict[str, dict[str, Estimate]]
Classes = Callable[[VertebraDecision], "bool | None"]
ZONES = ("anterior", "middle", "posterior")
VERTEBRA_DEFINITIONS = {
    "decisions per vertebra": DECISION_RULES,
    "grade 2 or 3": "against grade 0 or 1; fractures of unknown grade are left out",
    "auc": "of the probability, or of the fraction marked where the prediction has no probability; ties count half, a missed "
    "vertebra is below all others",
    "decisions per patient": "positive with any fractured vertebra, flagged with any flagged one; auc of the highest probability",
    **CALIBRATION_DEFINITIONS,
    **INSTANCE_DEFINITIONS,
    **AGREEMENT_DEFINITIONS,
}


@dataclass
class VertebraSummary:
    """Estimates per vertebra of a run.

    Attributes:
        sections: estimates by name, by section.
        reliability: table of the reliability diagram; empty without probabilities.
        grades: number of vertebrae (4, 4) by reference grade (row) and measured grade; None without measured grades.
        roc: rows of score, false-positive rate, sensitivity; empty without both classes.
    """

    sections: Sections = field(default_factory=dict)
    reliability: list[ReliabilityBin] = field(default_factory=list)
    grades: NDArray[np.int64] | None = None
    roc: list[tuple[float, float, float]] = field(default_factory=list)


def any_fracture(decision: VertebraDecision) -> bool | None:
    """Class for all grades."""
    return decision.fractured


def severe(decision: VertebraDecision) -> bool | None:
    """Class for grade 2 or 3 against 0 or 1."""
    return decision.severe


def scores(decisions: Sequence[VertebraDecision]) -> NDArray[np.float64]:
    """Score (N,) of every decision, see "auc" in ``VERTEBRA_DEFINITIONS``; NaN where a tool has none."""
    known = any(np.isfinite(d.probability) for d in decisions)
    values = [d.probability if known else d.marked for d in decisions]
    return np.array([-np.inf if d.missed else v for d, v in zip(decisions, values, strict=True)], float)


def _rates(decisions: Sequence[VertebraDecision], of: Classes, samples: int, seed: int, ranked: bool = True) -> dict[str, Estimate]:
    """Sensitivity, specificity, positive predictive value and, unless not ``ranked``, AUC of the vertebrae of known class."""
    known = [d for d in decisions if of(d) is not None]
    if not known:
        return {}
    bootstrap = Bootstrap([d.patient for d in known], samples, seed)
    positive = np.array([of(d) for d in known], bool)
    flagged = np.array([d.flagged for d in known], bool)
    rows = {
        "sensitivity": bootstrap.proportion(flagged & positive, positive),
        "specificity": bootstrap.proportion(~flagged & ~positive, ~positive),
        "ppv": bootstrap.proportion(flagged & positive, flagged),
    }
    score = scores(known)
    finite = ~np.isnan(score)
    if ranked and finite.any():
        patients = [d.patient for d, f in zip(known, finite, strict=True) if f]
        rows["auc"] = Bootstrap(patients, samples, seed).auc(score[finite], positive[finite])
    return rows


def with_probability(decisions: Sequence[VertebraDecision]) -> list[VertebraDecision]:
    """Vertebrae whose class and probability are known, those of a calibration."""
    return [d for d in decisions if d.fractured is not None and np.isfinite(d.probability)]


def _calibration(decisions: Sequence[VertebraDecision], samples: int, seed: int) -> dict[str, Estimate]:
    known = with_probability(decisions)
    if not known:
        return {}
    bootstrap = Bootstrap([d.patient for d in known], samples, seed)
    p, y = (np.array([getattr(d, name) for d in known], float) for name in ("probability", "fractured"))
    # Sums of p - y by bin, whose absolute values add up to the calibration error of any resample.
    cells = np.eye(BINS)[bin_of(p)] * (p - y)[:, None]
    whole, resampled = bootstrap.totals(np.concatenate([cells, np.ones((len(known), 1))], axis=1))
    with np.errstate(invalid="ignore"):
        errors = [np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1] for sums in (whole, resampled)]
    ece = bootstrap.estimate(float(errors[0]), errors[1], len(known), len(bootstrap.names))
    return {
        # Resampling adds to the calibration error, so that the interval of a small one may lie above it.
        "ece": widened(ece, (ece.value, ece.value)) if np.isfinite(ece.low) else ece,
        "brier": bootstrap.mean((p - y) ** 2),
        "mean probability - fraction of fractures": bootstrap.mean(p - y),
    }


def _by_group(decisions: Sequence[VertebraDecision], samples: int, seed: int) -> Sections:
    """Rates by region, by level and by shape of the fracture against all intact vertebrae."""
    sections: Sections = {}
    for region in ("cervical", "thoracic", "lumbar"):
        group = [d for d in decisions if d.region == region]
        if rates := _rates(group, any_fracture, samples, seed):
            sections[f"decisions per vertebra: {region}"] = rates
    rows: dict[str, Estimate] = {}
    ordered = sorted({d.label: d.level for d in decisions}.items(), key=lambda v: 19.5 if v[0] == 28 else v[0])
    for label, level in ordered:
        rates = _rates([d for d in decisions if d.label == label], any_fracture, samples, seed, ranked=False)
        rows |= {f"{level}: {k}": rates[k] for k in ("sensitivity", "specificity") if k in rates and rates[k].n}
    if rows:
        sections["decisions per vertebra: by level"] = rows
    intact = [d for d in decisions if d.fractured is False]
    rows = {}
    shapes = {d.shape for d in decisions if d.fractured and d.shape}
    for shape in sorted(shapes, key=lambda s: (list(SHAPES).index(s) if s in SHAPES else len(SHAPES), s)):
        rates = _rates([*intact, *(d for d in decisions if d.fractured and d.shape == shape)], any_fracture, samples, seed)
        rows |= {f"{shape}: {k}": rates[k] for k in ("sensitivity", "auc") if k in rates}
    if rows:
        sections["decisions per vertebra: by shape"] = rows
    return sections


def _patients(decisions: Sequence[VertebraDecision], samples: int, seed: int) -> dict[str, Estimate]:
    known = [d for d in decisions if d.fractured is not None]
    groups: dict[str, list[int]] = defaultdict(list)
    for k, d in enumerate(known):
        groups[d.patient].append(k)
    if not groups:
        return {}
    score = scores(known)
    positive = np.array([any(known[k].fractured for k in members) for members in groups.values()], bool)
    flagged = np.array([any(known[k].flagged for k in members) for members in groups.values()], bool)
    bootstrap = Bootstrap(list(groups), samples, seed)
    rows = {
        "sensitivity": bootstrap.proportion(flagged & positive, positive),
        "specificity": bootstrap.proportion(~flagged & ~positive, ~positive),
    }
    if not np.isnan(score).any():
        highest = np.array([score[members].max() for members in groups.values()])
        rows["auc"] = bootstrap.auc(highest, positive)
    return rows


def _f1(jaccard: Estimate) -> Estimate:
    """F1 = 2 J / (1 + J) of the proportion J = TP / (TP + FP + FN)."""
    value, low, high = (2 * v / (1 + v) for v in (jaccard.value, jaccard.low, jaccard.high))
    return replace(jaccard, value=value, low=low, high=high, events=None)


def instance_estimates(
    matchings: Sequence[InstanceMatching], patients: Sequence[str], samples: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Precision, recall, F1, segmentation and panoptic quality, DSC per vertebra and of all together, over patients.

    Args:
        matchings: instances of every case.
        patients: patient of every case.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """
    bootstrap = Bootstrap(patients, samples, seed)
    tp, fp, fn = (np.array(column, float) for column in zip(*(m.counts for m in matchings), strict=True))
    iou, dice = (np.array([sum(getattr(p, name) for p in m.counted) for m in matchings]) for name in ("iou", "dice"))
    return {
        "precision": bootstrap.proportion(tp, tp + fp),
        "recall": bootstrap.proportion(tp, tp + fn),
        "f1": _f1(bootstrap.proportion(tp, tp + fp + fn)),
        "segmentation quality": bootstrap.ratio(iou, tp),
        "panoptic quality": replace(bootstrap.ratio(2 * iou, 2 * tp + fp + fn), n=int((tp + fp + fn).sum())),
        "DSC per matched vertebra": bootstrap.ratio(dice, tp),
        "DSC per reference vertebra": bootstrap.ratio(dice, tp + fn),
        "DSC of all vertebrae in one mask": bootstrap.mean(np.array([m.together_dice for m in matchings])),
    }


def _levels(decisions: Sequence[VertebraDecision], samples: int, seed: int) -> dict[str, Estimate]:
    named = [d for d in decisions if d.record is not None and d.record.level and not d.missed]
    if not named:
        return {}
    right = np.array([d.record is not None and d.record.level == d.level for d in named])
    return {"level correct": Bootstrap([d.patient for d in named], samples, seed).proportion(right, np.ones(len(named)))}


def graded(decisions: Sequence[VertebraDecision]) -> list[tuple[VertebraDecision, int, int]]:
    """Vertebrae with reference and measured grade, and both grades."""
    pairs = ((d, d.grade, d.record.measured_grade) for d in decisions if d.record is not None and not d.missed)
    return [(d, one, other) for d, one, other in pairs if one is not None and other is not None]


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return float("nan")


def _measurements(decisions: Sequence[VertebraDecision], samples: int, seed: int) -> dict[str, Estimate]:
    """Heights (mm) and the greatest loss against those of the reference table, where it has them."""
    differences: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for d in decisions:
        if d.record is None or d.missed:
            continue
        for zone, height in zip(ZONES, d.record.heights_mm, strict=True):
            differences[f"{zone} height", "mm"].append((d.patient, height - _number(d.reference.get(f"height_{zone}_mm"))))
        losses = [v for v in (_number(d.reference.get(f"loss_{zone}")) for zone in ZONES) if np.isfinite(v)]
        if losses:
            differences["greatest loss of height", "fraction"].append((d.patient, d.record.loss_from_neighbours - max(losses)))
    rows: dict[str, Estimate] = {}
    for (name, unit), pairs in differences.items():
        if present := [(p, v) for p, v in pairs if np.isfinite(v)]:
            patients, values = zip(*present, strict=True)
            rows |= limits_of_agreement(values, patients, samples, seed, name, unit)
    return rows


def roc_curve(decisions: Sequence[VertebraDecision]) -> list[tuple[float, float, float]]:
    """Rows of score, false-positive rate and sensitivity of vertebrae, by falling score; empty without both classes."""
    known = [d for d in decisions if d.fractured is not None]
    score, positive = scores(known), np.array([d.fractured for d in known], bool)
    score, positive = score[~np.isnan(score)], positive[~np.isnan(score)]
    if not (positive.any() and (~positive).any()):
        return []
    values = np.unique(score)[::-1]
    return [(float(v), float(np.mean(score[~positive] >= v)), float(np.mean(score[positive] >= v))) for v in values]


def summarise_vertebrae(
    decisions: Sequence[VertebraDecision],
    matchings: Sequence[tuple[str, InstanceMatching]] = (),
    samples: int = 2000,
    seed: int = 0,
) -> VertebraSummary:
    """Estimates of a run, with 95 % intervals over patients.

    Args:
        decisions: decisions of all cases.
        matchings: patient and instances of every case whose prediction has instances.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """
    summary = VertebraSummary()
    sections = summary.sections
    rates = _rates(decisions, any_fracture, samples, seed)
    if rates:
        known = [d for d in decisions if d.fractured is not None]
        rates |= _calibration(decisions, samples, seed)
        if matchings or any(d.record is not None for d in decisions):
            missed = np.array([d.missed for d in known])
            rates["missed vertebrae"] = Bootstrap([d.patient for d in known], samples, seed).proportion(missed, np.ones(len(known)))
        sections["decisions per vertebra: all grades"] = rates
        if any(d.grade is not None for d in known):
            sections["decisions per vertebra: grade 2 or 3"] = _rates(decisions, severe, samples, seed)
        sections |= _by_group(decisions, samples, seed)
        sections["decisions per patient"] = _patients(decisions, samples, seed)
        summary.roc = roc_curve(decisions)
        if calibrating := with_probability(decisions):
            p, y = ([getattr(d, name) for d in calibrating] for name in ("probability", "fractured"))
            summary.reliability = reliability(p, y)
    if matchings:
        patients, instances = zip(*matchings, strict=True)
        sections["vertebra instances"] = instance_estimates(instances, patients, samples, seed) | _levels(decisions, samples, seed)
    if pairs := graded(decisions):
        vertebrae, reference, measured = zip(*pairs, strict=True)
        summary.grades = confusion(reference, measured)
        sections["measured grade"] = grade_agreement(reference, measured, [d.patient for d in vertebrae], samples, seed)
    if rows := _measurements(decisions, samples, seed):
        sections["measured heights"] = rows
    return summary
