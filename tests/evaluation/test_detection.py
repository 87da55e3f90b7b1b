# SPDX-License-Identifier: Apache-2.0
"""Fractures, vertebrae and patients that are found, missed or made up, by hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.aggregation import CaseResult, froc_curve, patient_scores, summarise
from scripts.evaluation.detection import match, match_case
from scripts.evaluation.overlap import case_metrics

SHAPE = (6, 6, 40)


def slabs(*labels: int) -> np.ndarray:
    """Vertebrae from head to feet, four voxels high, that touch one another."""
    vertebrae = np.zeros(SHAPE, np.uint8)
    for k, label in enumerate(labels):
        vertebrae[1:5, 1:5, 36 - 4 * k : 40 - 4 * k] = label
    return vertebrae


def result(case: str, prediction, reference, patient=None, **kwargs) -> CaseResult:
    metrics = case_metrics(prediction, reference, (1, 1, 1))
    return CaseResult(case, patient or case, metrics, match(prediction, reference, 0.001, **kwargs))


def test_one_component_over_two_vertebrae_finds_both():
    vertebrae = slabs(19, 20, 21)
    reference = np.isin(vertebrae, (19, 20))
    rows = {19: {"grade": "2", "shape": "wedge"}, 20: {"grade": "3", "shape": "crush"}}
    got = match(reference, reference, 0.001, vertebrae, rows)
    assert len(got.components) == 1
    found = {t.name: (t.fractured, t.coverage(got.components)) for t in got.targets}
    assert found == {"T12": (True, 1.0), "L1": (True, 1.0), "L2": (False, 0.0)}
    assert [t.grade for t in got.targets] == ["2", "3", ""]
    # Without instances the touching fractures are one.
    assert len(match(reference, reference, 0.001).targets) == 1


def test_iou_of_a_vertebra_counts_what_its_findings_mark_outside_fractures():
    vertebrae = slabs(19, 20, 21)
    reference = np.isin(vertebrae, (19, 20))
    one = match(reference, reference, 0.001, vertebrae)
    assert [t.iou(one.components) for t in one.targets] == [1.0, 1.0, 0.0]
    # All three marked: the intact L2, of the size of one of them, stands against both fractures, and they against it.
    three = match(vertebrae > 0, reference, 0.001, vertebrae)
    np.testing.assert_allclose([t.iou(three.components) for t in three.targets], [1 / 2, 1 / 2, 1 / 3])
    half = (vertebrae == 19) & (np.indices(SHAPE)[0] < 3)
    direct = np.count_nonzero(half & (vertebrae == 19)) / np.count_nonzero(half | (vertebrae == 19))
    got = match(half, reference, 0.001, vertebrae)
    assert got.targets[0].iou(got.components) == pytest.approx(direct) == pytest.approx(0.5)


def test_vertebrae_nobody_knows_are_no_targets():
    vertebrae = slabs(19, 20)
    known = vertebrae != 20
    got = match(np.zeros(SHAPE, bool), vertebrae == 19, 0.001, vertebrae, known=known)
    assert [t.name for t in got.targets] == ["T12"]


def test_stored_masks_are_matched_as_their_parts_are():
    rng = np.random.default_rng(3)
    vertebrae = slabs(19, 20, 21)
    stored = np.where(np.isin(vertebrae, (19, 21)), 1, 0).astype(np.uint8)
    stored[:, :, :10] = 255
    stored[vertebrae == 20] = rng.choice([0, 255], np.count_nonzero(vertebrae == 20), p=[0.8, 0.2])
    prediction = (rng.random(SHAPE) < 0.1).astype(np.uint8) * 2
    probability = rng.random(SHAPE)
    known = stored != 255
    for instances in (None, vertebrae):
        parts = ((prediction > 0) & known, stored == 1, 0.001, instances, {}, known, probability)
        assert match_case(prediction, stored, 0.001, 255, instances, {}, probability) == match(*parts)
    nothing = np.zeros(SHAPE, np.uint8)
    assert match_case(nothing, nothing, 0.001).components == []


def test_sections_count_what_was_found_missed_and_made_up():
    vertebrae = slabs(19, 20, 21, 22)
    rows = {19: {"grade": "1", "shape": "wedge"}, 21: {"grade": "3", "shape": "wedge"}}
    reference = np.isin(vertebrae, (19, 21))
    # T12 found, L2 missed, L3 made up.
    prediction = np.isin(vertebrae, (19, 22))
    healthy = np.zeros(SHAPE, bool)
    results = [
        result("a", prediction, reference, vertebrae=vertebrae, rows=rows),
        result("b", healthy, healthy, vertebrae=vertebrae),
    ]
    sections = summarise(results, samples=50).sections
    value = {f"{s}/{n}": e.value for s, rows_ in sections.items() for n, e in rows_.items()}
    assert value["fractures/sensitivity"] == 0.5
    assert value["fractures/sensitivity, grade 1"] == 1.0
    assert value["fractures/sensitivity, grade 3"] == 0.0
    assert value["fractures/sensitivity, shape wedge"] == 0.5
    assert value["fractures/sensitivity, level L2"] == 0.0
    assert value["fractures/ppv"] == value["fractures/f1"] == 0.5
    assert value["fractures/false positives per scan"] == 0.5
    assert value["vertebrae/sensitivity"] == 0.5
    assert value["vertebrae/specificity"] == pytest.approx(5 / 6)
    assert value["vertebrae/balanced accuracy"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert value["patients/sensitivity"] == value["patients/specificity"] == value["patients/auc"] == 1.0
    assert sections["fractures"]["sensitivity"].n == 2
    assert sections["cases: healthy"]["dice"].value == 1.0
    assert sections["vertebrae"]["specificity"].n == 6


def test_the_froc_curve_rises_from_confident_to_doubtful_findings():
    reference = np.zeros(SHAPE, bool)
    reference[1:5, 1:5, 30:36] = reference[1:5, 1:5, 4:8] = True
    prediction = reference.copy()
    prediction[0:2, 0:2, 18:20] = True
    probability = np.where(reference, 0.6, 0.9)
    probability[..., 30:36] = 0.95
    results = [result("a", prediction, reference, probability=probability)]
    assert froc_curve(results, 0.5) == [(0.95, 0.0, 0.5), (0.9, 1.0, 0.5), (0.6, 1.0, 1.0)]
    # Without probabilities the larger finding comes first.
    by_volume = froc_curve([result("a", prediction, reference)], 0.5)
    assert [s for _, _, s in by_volume] == [0.5, 1.0, 1.0]
    assert froc_curve([result("h", prediction, np.zeros(SHAPE, bool))], 0.5) == []


def test_a_patient_is_the_sum_of_the_scans():
    empty, full = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    full[2:4, 2:4, 2:4] = True
    results = [result("1", empty, full, "p"), result("2", full, empty, "p"), result("3", empty, empty, "q")]
    assert patient_scores(results) == {"p": (True, pytest.approx(0.008)), "q": (False, 0.0)}


def test_half_a_vertebra_decides_at_the_named_overlap():
    vertebrae = slabs(20)
    reference = vertebrae == 20
    prediction = reference.copy()
    prediction[:, :, :37] = False  # a quarter is missing
    assert summarise([result("a", prediction, reference)], 0.75, 20).sections["fractures"]["sensitivity"].value == 1.0
    assert summarise([result("a", prediction, reference)], 0.8, 20).sections["fractures"]["sensitivity"].value == 0.0


def test_no_case_is_refused():
    with pytest.raises(ValueError, match="no case"):
        summarise([])


def test_the_froc_curve_equals_counting_at_every_threshold():
    rng = np.random.default_rng(2)
    results = []
    for k in range(6):
        prediction, reference = rng.random((2, 5, 6, 7)) < 0.25
        results.append(result(str(k), prediction, reference, probability=rng.random((5, 6, 7))))
    for threshold, false, sensitivity in froc_curve(results, 0.3):
        cases = [r.detections for r in results]
        by_hand = sum(c.overlap < 0.3 for d in cases for c in d.components if c.confidence >= threshold)
        found = [t.coverage(d.components, threshold) >= 0.3 for d in cases for t in d.targets]
        assert (false, sensitivity) == pytest.approx((by_hand / 6, np.mean(found)))
