# SPDX-License-Identifier: Apache-2.0
"""Verdicts: thresholds, reasons in plain words, and what cannot be measured."""

from __future__ import annotations

import pytest
from scripts.evaluation.domain_agreement import Agreement
from scripts.evaluation.domain_coverage import Coverage
from scripts.evaluation.domain_hu import HuStatistics
from scripts.evaluation.domain_verdicts import (
    ACCURACY,
    NOT_MEASURABLE,
    OUTSIDE,
    STABLE,
    UNSTABLE,
    WITHIN,
    agreement_check,
    coverage_checks,
    hu_checks,
    overall,
)

GOOD = {
    "vertebra_dsc": 0.95,
    "body_dsc": 0.95,
    "instances": 6,
    "vertebrae": 5,
    "found_again": 1.0,
    "difference": 0.05,
    "where": "L1",
}


def agreement(**values) -> Agreement:
    return Agreement("noise +30 HU", **{**GOOD, **values})


@pytest.mark.parametrize(
    ("values", "verdict", "reason"),
    [
        ({}, STABLE, ""),
        ({"vertebra_dsc": 0.84}, UNSTABLE, "DSC below 0.85"),
        ({"body_dsc": 0.5}, UNSTABLE, "DSC below 0.85"),
        ({"found_again": 0.8}, UNSTABLE, "1 vertebra is lost"),
        ({"difference": 0.3}, UNSTABLE, "probability of L1 moves by 0.30"),
        ({"difference": 0.1, "changed": 1}, UNSTABLE, "1 decision changes"),
        ({"changed": 2}, UNSTABLE, "2 decisions change"),
        ({"skipped": "the scan has slices of 3.3 mm"}, NOT_MEASURABLE, "slices of 3.3 mm"),
        ({"vertebra_dsc": 0.0, "instances": 0, "vertebrae": 0}, NOT_MEASURABLE, "no vertebra in the unchanged scan"),
        ({"vertebrae": 0, "found_again": float("nan"), "difference": float("nan")}, NOT_MEASURABLE, "no complete vertebra"),
    ],
)
def test_agreement(values, verdict, reason):
    check = agreement_check(agreement(**values))
    assert check.verdict == verdict
    assert reason in check.reason


def test_equal_images_prove_nothing_but_their_difference_does():
    assert agreement_check(agreement(), trivial=True).verdict == NOT_MEASURABLE
    assert agreement_check(agreement(body_dsc=0.5), trivial=True).verdict == UNSTABLE


def by_name(checks) -> dict[str, str]:
    return {c.name: c.verdict for c in checks}


def test_coverage():
    whole = Coverage(5, 1, [], 120.0, 0.0, 20.0, True)
    assert set(by_name(coverage_checks(whole)).values()) == {STABLE}
    assert "20 mm below" in coverage_checks(whole)[-1].value
    missed = by_name(coverage_checks(Coverage(5, 0, ["L1 to L3"], 120.0, 0.3, 0.0, True)))
    assert missed == {"instances": STABLE, "gaps": UNSTABLE, "bone without instance": UNSTABLE}
    assert by_name(coverage_checks(Coverage(2, 0, [], 60.0, 0.0, 0.0, True)))["gaps"] == NOT_MEASURABLE


def test_no_instance_is_unstable_only_where_there_is_bone():
    assert by_name(coverage_checks(Coverage(bone=True)))["instances"] == UNSTABLE
    assert set(by_name(coverage_checks(Coverage())).values()) == {NOT_MEASURABLE}


def test_hu():
    usual = HuStatistics(-1000, -95, 45, 900, 20, 130, 0.8, 1.5)
    assert set(by_name(hu_checks(usual)).values()) == {WITHIN}
    assert set(by_name(hu_checks(HuStatistics())).values()) == {NOT_MEASURABLE}
    other = by_name(hu_checks(HuStatistics(-1000, -95, 1069, 900, 120, 500, 2.0, 6.0)))
    assert [n for n, v in other.items() if v == OUTSIDE] == [
        "peak of soft tissue", "noise", "trabecular HU", "voxel size in plane", "distance of slices",
    ]  # fmt: skip
    shifted = next(c for c in hu_checks(HuStatistics(soft_tissue=1069)) if c.name == "peak of soft tissue")
    assert "HU plus 1024" in shifted.reason


def test_overall():
    stable, none = agreement_check(agreement()), agreement_check(agreement(skipped="x"))
    assert overall([stable, none]) == STABLE
    assert overall([none]) == NOT_MEASURABLE
    assert overall([stable, *hu_checks(HuStatistics(noise=200))]) == UNSTABLE
    assert overall([*hu_checks(HuStatistics(noise=20))]) == NOT_MEASURABLE


def test_page_states_that_stability_is_not_accuracy():
    assert ACCURACY.startswith("Stability is not accuracy")
