# SPDX-License-Identifier: Apache-2.0
"""Grades by heights: bands, shapes, physiological wedges, adjacent fractures, growth along the spine, and too little to compare."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.core.genant import LOSS_BANDS, SHAPES
from scripts.core.vertebrae import LABELS, LEVELS
from scripts.postprocessing.genant_grading import grade_vertebrae
from scripts.postprocessing.vertebra_record import VertebraRecord

SPINE = ("T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4")
NORMAL = (0.93, 0.92, 1.0)  # wedge and concavity of intact bodies
SHAPE_LOSSES = {"wedge": (1.0, 0.4, 0.1), "biconcave": (0.4, 1.0, 0.1), "crush": (1.0, 1.0, 1.0)}


def spine(losses: dict[str, tuple[float, float, float]] | None = None, levels=SPINE, sd: float = 0.3) -> list[VertebraRecord]:
    """Vertebrae with normal growth and the given losses of the anterior, middle and posterior height."""
    records, height = [], 19.0
    for k, level in enumerate(levels):
        heights = np.array(NORMAL) * height * (1 - np.array((losses or {}).get(level, (0, 0, 0))))
        a, m, p = (float(h) for h in heights)
        records.append(VertebraRecord(k + 1, label=LABELS[level], level=level, heights_mm=(a, m, p), heights_sd_mm=(sd,) * 3))
        height *= 1.03 if level.startswith("T") else 1.0
    return records


def graded(records: list[VertebraRecord]) -> dict[str, VertebraRecord]:
    grade_vertebrae(records)
    return {r.level: r for r in records}


def test_intact_spine_has_no_loss():
    for record in graded(spine()).values():
        assert record.measured_grade == 0
        assert record.measured_shape == ""
        assert record.loss_from_neighbours == pytest.approx(0, abs=0.02)
        assert record.loss_from_posterior == pytest.approx(0.08)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grade", LOSS_BANDS)
@pytest.mark.parametrize("level", ["T9", "L1", "L4"])
def test_grade_and_shape_of_a_loss(shape, grade, level):
    loss = {1: 0.225, 2: 0.33, 3: 0.5}[grade]
    records = graded(spine({level: tuple(loss * f for f in SHAPE_LOSSES[shape])}))
    assert records[level].measured_grade == grade
    assert records[level].measured_shape == shape
    assert records[level].loss_from_neighbours == pytest.approx(loss, abs=0.02)
    low, high = records[level].measured_grade_range
    assert low <= grade <= high
    assert {r.measured_grade for v, r in records.items() if v != level} == {0}


@given(st.floats(0, 0.6), st.floats(0, 0.6), st.sampled_from(SPINE))
@settings(max_examples=40, deadline=None)
def test_grade_rises_with_the_loss(first, second, level):
    small, large = sorted((first, second))
    grades = [graded(spine({level: (loss, 0.5 * loss, 0.0)}))[level].measured_grade for loss in (small, large)]
    assert grades[0] <= grades[1]


@pytest.mark.parametrize("ratio", [0.86, 0.90, 0.94])
def test_physiological_wedge_is_no_fracture(ratio):
    for levels in (SPINE, ("T12",)):
        records = spine(levels=levels)
        for r in records:
            r.heights_mm = (ratio * r.heights_mm[2], ratio * r.heights_mm[2], r.heights_mm[2])
        assert {r.measured_grade for r in graded(records).values()} == {0}


def test_adjacent_fractures_do_not_hide_each_other():
    loss = (0.33, 0.15, 0.05)
    records = graded(spine({"T12": loss, "L1": loss, "L2": loss}))
    assert [records[v].measured_grade for v in ("T12", "L1", "L2")] == [2, 2, 2]
    assert {records[v].measured_grade for v in ("T10", "T11", "L3", "L4")} == {0}


def test_all_fractured_falls_back_on_the_posterior_height():
    records = graded(spine(dict.fromkeys(SPINE, (0.45, 0.2, 0.0))))
    assert all(r.measured_grade >= 2 for r in records.values())
    assert all(math.isnan(r.loss_from_neighbours) for r in records.values())


def test_one_vertebra_has_a_wide_range():
    (record,) = graded(spine({"L1": (0.3, 0.1, 0.0)}, levels=("L1",))).values()
    among = graded(spine({"L1": (0.3, 0.1, 0.0)}))["L1"]
    assert record.measured_grade_range[0] < record.measured_grade
    assert record.loss_sd > 1.2 * among.loss_sd
    assert math.isnan(record.loss_from_neighbours)


def test_range_widens_with_the_uncertainty_of_heights():
    fine, coarse = (graded(spine({"T12": (0.3, 0.1, 0.0)}, sd=sd))["T12"] for sd in (0.3, 1.5))
    assert coarse.loss_sd > fine.loss_sd
    widths = [r.measured_grade_range[1] - r.measured_grade_range[0] for r in (fine, coarse)]
    assert widths[0] <= widths[1]


def test_growth_is_no_loss_at_the_ends_of_a_scan():
    levels = tuple(LEVELS[v] for v in range(LABELS["T3"], LABELS["L4"] + 1))
    records = graded(spine(levels=levels))
    assert max(abs(r.loss_from_neighbours) for r in records.values()) < 0.02


def test_numbers_without_levels():
    records = spine({"L1": (0.45, 0.2, 0.1)})
    for r in records:
        r.label, r.level = None, ""
    grade_vertebrae(records)
    assert [r.measured_grade for r in records] == [0, 0, 0, 0, 0, 3, 0, 0, 0]


def test_order_of_the_records_does_not_matter():
    first, second = spine({"T10": (0.3, 0.2, 0.0)}), spine({"T10": (0.3, 0.2, 0.0)})
    grade_vertebrae(first)
    grade_vertebrae(second[::-1])
    assert first == second


def test_cut_and_unmeasured_vertebrae_are_no_reference():
    plain = graded(spine({"T12": (0.3, 0.1, 0.0)}))["T12"]
    records = spine({"T12": (0.3, 0.1, 0.0), "T8": (0.6, 0.6, 0.6)})
    records[0].complete = False
    records[-1].heights_mm = (float("nan"),) * 3
    result = graded(records)
    assert result["T8"].measured_grade is None
    assert result["L4"].measured_grade is None
    assert result["T12"].measured_grade == plain.measured_grade


def test_block_of_two_vertebrae_is_no_reference():
    records = spine()
    records[4].heights_mm = (48.0, 47.0, 49.0)
    result = graded(records)
    assert result["T12"].measured_grade is None
    assert "more than one vertebra" in result["T12"].note
    assert {r.measured_grade for v, r in result.items() if v != "T12"} == {0}


def test_no_vertebra_and_levels_without_a_body():
    grade_vertebrae([])
    records = graded(spine(levels=("C1", "C2", "C3", "C4", "C5")))
    assert [r.measured_grade for r in records.values()] == [None, None, 0, 0, 0]


def test_grading_twice_is_grading_once():
    once, twice = spine({"L2": (0.1, 0.3, 0.0)}), spine({"L2": (0.1, 0.3, 0.0)})
    grade_vertebrae(once)
    grade_vertebrae(twice)
    grade_vertebrae(twice)
    assert once == twice


def test_heights_that_are_too_uncertain_have_no_grade():
    records = spine({"T12": (0.3, 0.1, 0.0)})
    records[4].heights_sd_mm = (2.5, 0.4, 0.4)
    result = graded(records)
    assert result["T12"].measured_grade is None
    assert result["T12"].note == "heights too uncertain for a grade"
    assert graded(records)["T12"].note == result["T12"].note


@pytest.mark.parametrize("levels", [SPINE, ("L1",)])
def test_values_are_plain_numbers(levels):
    for record in graded(spine({"L1": (0.5, 0.3, 0.1)}, levels=levels)).values():
        assert type(record.measured_grade) is int
        assert {type(g) for g in record.measured_grade_range} == {int}
        assert type(record.loss_sd) is float
