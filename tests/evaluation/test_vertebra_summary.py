# SPDX-License-Identifier: Apache-2.0
"""Rates, AUC and calibration per vertebra and per patient, from hand-made decisions and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.calibration import brier_score, calibration_error
from scripts.evaluation.vertebra_decisions import VertebraDecision
from scripts.evaluation.vertebra_summary import roc_curve, summarise_vertebrae
from vertebra_files import record

NAN = float("nan")
ALL = "decisions per vertebra: all grades"


def decision(patient: str, label: int, fractured, flagged: bool, probability: float = NAN, **values) -> VertebraDecision:
    return VertebraDecision(patient, patient, label, fractured, flagged=flagged, probability=probability, **values)


def simulated(n: int = 60, seed: int = 0) -> list[VertebraDecision]:
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        fractured = bool(rng.random() < 0.3)
        p = round(float(np.clip(rng.normal(0.6 if fractured else 0.4, 0.2), 0, 1)), 1)  # with ties
        grade = int(rng.integers(1, 4)) if fractured else 0
        made.append(
            decision(f"p{k // 4}", int(rng.integers(8, 25)), fractured, p >= 0.5, p, grade=grade, shape="wedge" if grade else "")
        )
    return made


def brute_force_auc(scores, positive) -> float:
    pairs = [(p, q) for p, a in zip(scores, positive, strict=True) if a for q, b in zip(scores, positive, strict=True) if not b]
    return sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)


def test_rates_of_a_hand_made_confusion():
    # 3 of 4 fractures flagged, 1 of 6 intact flagged.
    made = [decision("a", 20, True, k < 3) for k in range(4)] + [decision("b", 21, False, k < 1) for k in range(6)]
    rates = summarise_vertebrae(made, samples=50).sections[ALL]
    counts = {name: (rates[name].events, rates[name].n) for name in ("sensitivity", "specificity", "ppv")}
    assert counts == {"sensitivity": (3, 4), "specificity": (5, 6), "ppv": (3, 4)}
    assert rates["sensitivity"].patients == 1
    assert "auc" not in rates


def test_unknown_vertebrae_are_left_out():
    made = [decision("a", 20, True, True), decision("a", 21, None, True), decision("a", 22, False, False)]
    rates = summarise_vertebrae(made, samples=20).sections[ALL]
    assert (rates["ppv"].n, rates["specificity"].n) == (1, 1)
    assert summarise_vertebrae([decision("a", 21, None, True)], samples=20).sections == {}
    assert summarise_vertebrae([], samples=20).sections == {}


def test_11_of_11_has_an_interval():
    lows = []
    for per_patient in (1, 2, 4):
        made = [decision(f"p{k // per_patient}", 20, True, True) for k in range(11)]
        sensitivity = summarise_vertebrae(made, samples=100).sections[ALL]["sensitivity"]
        assert (sensitivity.value, sensitivity.high, sensitivity.events) == (1.0, 1.0, 11)
        lows.append(sensitivity.low)
    assert lows[0] == pytest.approx(0.7412, abs=1e-4)  # Wilson's, one vertebra of each patient
    assert lows == sorted(lows, reverse=True)  # fewer patients, less certainty


@pytest.mark.parametrize("seed", range(3))
def test_auc_by_brute_force_with_ties(seed):
    made = simulated(seed=seed)
    rates = summarise_vertebrae(made, samples=50).sections[ALL]
    expected = brute_force_auc([d.probability for d in made], [d.fractured for d in made])
    assert rates["auc"].value == pytest.approx(expected)
    assert rates["auc"].low <= expected <= rates["auc"].high
    points = roc_curve(made)
    _, false, sensitivity = zip(*points, strict=True)
    rise, width = np.convolve([0, *sensitivity], [0.5, 0.5], "valid"), np.diff([0, *false])
    assert (rise * width).sum() == pytest.approx(expected)
    assert (false[-1], sensitivity[-1]) == (1, 1)


def test_a_missed_fracture_is_below_all_others():
    made = [decision("a", 20, True, False, missed=True), decision("a", 21, True, True, 0.9), decision("b", 22, False, False, 0.1)]
    summary = summarise_vertebrae(made, samples=20)
    assert summary.sections[ALL]["auc"].value == 0.5
    assert summary.sections[ALL]["ece"].n == 2  # without a probability there is no calibration


def test_without_probabilities_the_marked_fraction_ranks():
    made = [
        decision("a", 20, True, True, marked=0.7),
        decision("a", 21, False, False, marked=0.2),
        decision("b", 22, True, False, marked=0.1),
    ]
    rates = summarise_vertebrae(made, samples=20).sections[ALL]
    assert rates["auc"].value == 0.5
    assert "ece" not in rates


def test_calibration_equals_its_definition():
    made = simulated()
    p, y = [d.probability for d in made], [d.fractured for d in made]
    summary = summarise_vertebrae(made, samples=50)
    assert summary.sections[ALL]["ece"].value == pytest.approx(calibration_error(p, y))
    assert summary.sections[ALL]["brier"].value == pytest.approx(brier_score(p, y))
    assert sum(b.n for b in summary.reliability) == len(made)


def test_groups_add_up_to_all():
    made = simulated()
    sections = summarise_vertebrae(made, samples=50).sections
    for name in ("sensitivity", "specificity"):
        regions = [s[name] for key, s in sections.items() if key.endswith(("thoracic", "lumbar", "cervical"))]
        levels = [e for key, e in sections["decisions per vertebra: by level"].items() if key.endswith(name)]
        for group in (regions, levels):
            assert sum(e.events for e in group) == sections[ALL][name].events
            assert sum(e.n for e in group) == sections[ALL][name].n
    assert sections["decisions per vertebra: by shape"]["wedge: sensitivity"] == sections[ALL]["sensitivity"]


def test_severe_fractures_against_the_rest():
    made = [
        decision("a", 20, True, True, grade=1),
        decision("a", 21, True, True, grade=2),
        decision("a", 22, True, False),
        decision("a", 23, False, False),
    ]
    rates = summarise_vertebrae(made, samples=20).sections["decisions per vertebra: grade 2 or 3"]
    assert (rates["sensitivity"].events, rates["sensitivity"].n) == (1, 1)
    assert (rates["specificity"].events, rates["specificity"].n) == (1, 2)


def test_patients_by_any_vertebra():
    made = [
        *(decision("a", v, v == 20, False, 0.2) for v in (20, 21)),
        *(decision("b", v, v == 20, v == 21, 0.6 if v == 21 else 0.1) for v in (20, 21)),
        *(decision("c", v, False, False, 0.3) for v in (20, 21)),
        decision("d", 20, None, True, 0.9),
    ]
    rows = summarise_vertebrae(made, samples=50).sections["decisions per patient"]
    assert [(rows[k].events, rows[k].n) for k in ("sensitivity", "specificity")] == [(1, 2), (1, 1)]
    assert rows["auc"].value == 0.5


def test_measured_grade_and_losses_against_the_reference():
    rows = [(0, 0, 0.05, ""), (2, 2, 0.31, "0.30"), (3, 2, 0.38, "0.45"), (None, 1, 0.2, "")]
    made = [
        decision(
            "a", 19 + k, bool(grade), False, grade=grade, record=record(k, 0.1, measured_grade=measured, loss_from_neighbours=loss),
            reference={"loss_anterior": reference},
        )
        for k, (grade, measured, loss, reference) in enumerate(rows)
    ]  # fmt: skip
    made.append(decision("b", 20, True, False, grade=3, record=record(9, 0.1, measured_grade=0), missed=True))
    summary = summarise_vertebrae(made, samples=50)
    assert summary.grades.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert summary.sections["measured grade"]["equal grade"].events == 2
    bias = summary.sections["measured heights"]["greatest loss of height: mean difference (fraction)"]
    assert (bias.value, bias.n) == (pytest.approx((0.01 - 0.07) / 2), 2)


def test_heights_against_those_of_the_reference_table():
    made = [
        decision("a", 20, False, False, record=record(1, 0.1, heights_mm=(24.0, 23.0, NAN)), reference={"height_anterior_mm": "25"})
    ]
    rows = summarise_vertebrae(made, samples=20).sections["measured heights"]
    assert {k: v.value for k, v in rows.items() if "mean diff" in k} == {"anterior height: mean difference (mm)": -1.0}


def test_levels_of_matched_vertebrae():
    from scripts.evaluation.instances import InstanceMatching, InstancePair

    pairs = [InstancePair(20, 1, 0.9, 0.95), InstancePair(21, 2, 0.9, 0.95)]
    made = [
        decision("a", 20, False, False, record=record(1, 0.1, level="L1", level_source="guess"), pair=pairs[0]),
        decision("a", 21, False, False, record=record(2, 0.1, level="L1", level_source="guess"), pair=pairs[1]),
    ]
    rows = summarise_vertebrae(made, [("a", InstanceMatching(pairs))], samples=20).sections["vertebra instances"]
    assert (rows["level correct"].events, rows["level correct"].n) == (1, 2)
