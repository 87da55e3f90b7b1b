# SPDX-License-Identifier: Apache-2.0
"""Verdicts of the domain checks in plain words, with thresholds that are conventions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .domain_agreement import Agreement
from .domain_coverage import GAP_FACTOR, MIN_NEIGHBOURS, Coverage
from .domain_hu import EXPECTED_HU, TRAINING, HuStatistics

STABLE, UNSTABLE, NOT_MEASURABLE = "stable", "unstable", "not measurable"
WITHIN, OUTSIDE = "within", "outside"
VERDICTS = (STABLE, WITHIN, UNSTABLE, OUTSIDE, NOT_MEASURABLE)
MIN_DSC = 0.85
MIN_FOUND_AGAIN = 0.90
MAX_DIFFERENCE = 0.20
MAX_UNCOVERED = 0.10
ACCURACY = (
    "Stability is not accuracy: weights can be wrong in the same way in every pass. These checks find scanners on which the "
    "weights do not hold; they do not show that the weights are right."
)
THRESHOLDS = {
    "agreement": f"stable where the DSC of vertebra and of body are at least {MIN_DSC}, at least {MIN_FOUND_AGAIN:.0%} of the "
    f"complete vertebrae are found again, no fracture probability moves by more than {MAX_DIFFERENCE}, and no decision changes",
    "vertebrae seen": f"stable where no two neighbours lie further apart than {GAP_FACTOR} times the median distance, and at most "
    f"{MAX_UNCOVERED:.0%} of the bright bone along the axis of the spine has no instance",
    "HU and voxels": "within where the value lies in the range of the training data, or of the tissue for a peak",
}
CONVENTION = "All thresholds are conventions. None was tuned, and none predicts the accuracy on a scan."


@dataclass(frozen=True)
class Check:
    """One check of a scan.

    Attributes:
        group: "agreement", "vertebrae seen" or "HU and voxels".
        name: name of the check.
        value: measured values, for a reader.
        verdict: one of ``VERDICTS``.
        reason: reason of a verdict that is not "stable" or "within"; else a remark or "".
    """

    group: str
    name: str
    value: str
    verdict: str
    reason: str = ""


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def agreement_check(a: Agreement, trivial: bool = False) -> Check:
    """Verdict of one perturbed pass.

    Args:
        a: agreement of the pass with the original one.
        trivial: True where the network receives the same images in both passes, so that only a disagreement has a meaning.
    """
    if a.skipped:
        return Check("agreement", a.name, "", NOT_MEASURABLE, a.skipped)
    value = f"DSC vertebra {_number(a.vertebra_dsc)}, body {_number(a.body_dsc)}"
    if a.vertebrae:
        again = round(a.found_again * a.vertebrae)
        value += f"; {again} of {a.vertebrae} vertebrae found again; probability moves by up to {_number(a.difference)}"
    if not a.instances:
        return Check("agreement", a.name, value, NOT_MEASURABLE, "no vertebra in the unchanged scan")
    reasons = []
    if min(a.vertebra_dsc, a.body_dsc) < MIN_DSC:
        reasons.append(f"DSC below {MIN_DSC}")
    if a.vertebrae:
        if a.found_again < MIN_FOUND_AGAIN:
            lost = a.vertebrae - round(a.found_again * a.vertebrae)
            reasons.append(f"{lost} vertebrae are lost or differ" if lost > 1 else "1 vertebra is lost or differs")
        if a.difference > MAX_DIFFERENCE:
            reasons.append(f"probability of {a.where} moves by {a.difference:.2f}")
        if a.changed:
            reasons.append(f"{a.changed} decisions change" if a.changed > 1 else "1 decision changes")
    if reasons:
        if trivial:
            reasons.append("the network receives the same images, so the search of the pipeline differs")
        return Check("agreement", a.name, value, UNSTABLE, "; ".join(reasons))
    if trivial:
        return Check("agreement", a.name, value, NOT_MEASURABLE, "a network of single sagittal slices receives the same images")
    if not a.vertebrae:
        return Check("agreement", a.name, value, NOT_MEASURABLE, "no complete vertebra, so no probability is compared")
    return Check("agreement", a.name, value, STABLE)


def coverage_checks(c: Coverage) -> list[Check]:
    """Verdicts about the share of vertebrae that are seen."""
    group = "vertebrae seen"
    value = f"{c.vertebrae} instances, {c.cut} cut by the border"
    if not c.vertebrae:
        verdict, reason = (
            (UNSTABLE, "there is bone, and no instance: no spine in the scan, or weights that miss it")
            if c.bone
            else (NOT_MEASURABLE, "no bone in the scan")
        )
        empty = [Check(group, name, "", NOT_MEASURABLE, "no instance") for name in ("gaps", "bone without instance")]
        return [Check(group, "instances", value, verdict, reason), *empty]
    checks = [Check(group, "instances", value, STABLE)]
    if c.vertebrae < MIN_NEIGHBOURS:
        checks.append(Check(group, "gaps", "", NOT_MEASURABLE, f"fewer than {MIN_NEIGHBOURS} instances"))
    else:
        gaps = ", ".join(c.gaps)
        checks.append(
            Check(group, "gaps", gaps or "none", UNSTABLE if gaps else STABLE, "a vertebra may be missed there" if gaps else "")
        )
    if math.isnan(c.uncovered):
        checks.append(Check(group, "bone without instance", "", NOT_MEASURABLE, "no bright bone along the axis"))
        return checks
    below = f"; {c.below_mm:.0f} mm below the last instance, which may be the sacrum" if c.below_mm else ""
    high = c.uncovered > MAX_UNCOVERED
    checks.append(
        Check(
            group, "bone without instance", f"{c.uncovered:.0%} of {c.bright_mm:.0f} mm of bright bone{below}",
            UNSTABLE if high else STABLE, "vertebrae may be missed; an estimate without labels" if high else "",
        )
    )  # fmt: skip
    return checks


def _range_check(name: str, value: float, low: float, high: float, unit: str, absent: str, outside: str) -> Check:
    group = "HU and voxels"
    shown = f"{value:.{1 if unit == 'mm' else 0}f} {unit}"
    if math.isnan(value):
        return Check(group, name, "", NOT_MEASURABLE, absent)
    limits = f"{low:g} to {high:g} {unit}"
    if low <= value <= high:
        return Check(group, name, shown, WITHIN, limits)
    return Check(group, name, shown, OUTSIDE, f"outside {limits}; {outside}")


def hu_checks(s: HuStatistics) -> list[Check]:
    """Verdicts about HU and voxel sizes."""
    calibration = "the values may be no HU, such as HU plus 1024"
    peaks = {"air": s.air, "fat": s.fat, "soft tissue": s.soft_tissue}
    checks = [
        _range_check(f"peak of {name}", value, *EXPECTED_HU[name], "HU", f"no peak of {name}", calibration)
        for name, value in peaks.items()
    ]
    reasons = {
        "noise": "the scan has less or more noise than any of the training",
        "trabecular HU": "bone is less or more dense than any of the training",
        "voxel size in plane": "voxels are larger than any of the training",
        "distance of slices": "slices lie further apart than any of the training",
    }
    values = {
        "noise": s.noise, "trabecular HU": s.trabecular, "voxel size in plane": s.in_plane_mm, "distance of slices": s.slices_mm,
    }  # fmt: skip
    absent = {"noise": "too little soft tissue", "trabecular HU": "no complete vertebra"}
    for name, value in values.items():
        r = TRAINING[name]
        checks.append(_range_check(name, value, r.low, r.high, r.unit, absent.get(name, ""), reasons[name]))
    return checks


def overall(checks: Sequence[Check]) -> str:
    """Verdict of a scan: unstable where any check is, not measurable where no agreement could be measured, else stable."""
    if any(c.verdict in (UNSTABLE, OUTSIDE) for c in checks):
        return UNSTABLE
    measured = any(c.group == "agreement" and c.verdict == STABLE for c in checks)
    return STABLE if measured else NOT_MEASURABLE
