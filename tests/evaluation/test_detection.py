# SPDX-License-Identifier: Apache-2.0
"""True and false positives and negatives of fractures, vertebrae and patients, by hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from scripts.evaluation.aggregation import CaseResult, aggregate, froc_curve, patient_scores
from scripts.evaluation.detection import match, match_case
from scripts.evaluation.overlap import case_metrics
from scripts.postprocessing.findings import connected_components

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


def test_one_detection_over_two_vertebrae_detects_both():
    vertebrae = slabs(19, 20, 21)
    reference = np.isin(vertebrae, (19, 20))
    rows = {19: {"grade": "2", "shape": "wedge"}, 20: {"grade": "3", "shape": "crush"}}
    got = match(reference, reference, 0.001, vertebrae, rows)
    assert len(got.detections) == 1
    targets = {t.name: (t.fractured, t.coverage(got.detections)) for t in got.targets}
    assert targets == {"T12": (True, 1.0), "L1": (True, 1.0), "L2": (False, 0.0)}
    assert [t.grade for t in got.targets] == ["2", "3", ""]
    # Without instances the touching fractures are one.
    assert len(match(reference, reference, 0.001).targets) == 1


def test_iou_counts_voxels_of_detections_outside_fractures():
    vertebrae = slabs(19, 20, 21)
    reference = np.isin(vertebrae, (19, 20))
    one = match(reference, reference, 0.001, vertebrae)
    assert [t.iou(one.detections) for t in one.targets] == [1.0, 1.0, 0.0]
    # All three marked: the intact L2, of the size of one of them, stands against both fractures, and they against it.
    three = match(vertebrae > 0, reference, 0.001, vertebrae)
    np.testing.assert_allclose([t.iou(three.detections) for t in three.targets], [1 / 2, 1 / 2, 1 / 3])
    half = (vertebrae == 19) & (np.indices(SHAPE)[0] < 3)
    direct = np.count_nonzero(half & (vertebrae == 19)) / np.count_nonzero(half | (vertebrae == 19))
    got = match(half, reference, 0.001, vertebrae)
    assert got.targets[0].iou(got.detections) == pytest.approx(direct) == pytest.approx(0.5)


def test_vertebrae_of_ignored_voxels_are_no_targets():
    vertebrae = slabs(19, 20)
    valid = vertebrae != 20
    got = match(np.zeros(SHAPE, bool), vertebrae == 19, 0.001, vertebrae, valid=valid)
    assert [t.name for t in got.targets] == ["T12"]


def test_matching_of_stored_masks_equals_that_of_their_parts():
    rng = np.random.default_rng(3)
    vertebrae = slabs(19, 20, 21)
    stored = np.where(np.isin(vertebrae, (19, 21)), 1, 0).astype(np.uint8)
    stored[:, :, :10] = 255
    stored[vertebrae == 20] = rng.choice([0, 255], np.count_nonzero(vertebrae == 20), p=[0.8, 0.2])
    prediction = (rng.random(SHAPE) < 0.1).astype(np.uint8) * 2
    probability = rng.random(SHAPE)
    valid = stored != 255
    spacing = (2.0, 0.5, 1.0)
    found = (prediction > 0) & valid
    tree = cKDTree(np.argwhere((prediction > 0) & ~valid) * spacing)
    components, count = ndimage.label(found)
    kept = 0
    for number in range(1, count + 1):
        part = components == number
        rim = (tree.query(np.argwhere(part) * spacing)[0] <= 3.0).all() and not (stored[part] == 1).any()
        found[part] = not rim
        kept += not rim
    assert 0 < kept < count
    for instances in (None, vertebrae):
        parts = (found, stored == 1, 0.001, instances, {}, valid, probability)
        assert match_case(prediction, stored, spacing, 255, instances, {}, probability) == match(*parts)
    nothing = np.zeros(SHAPE, np.uint8)
    assert match_case(nothing, nothing, (1, 1, 1)).detections == []


@pytest.mark.parametrize(
    ("ignored", "beside", "spacing", "counted"),
    [
        (slice(4, 12), slice(12, 13), (1, 1, 1), 0),
        (slice(4, 12), slice(14, 15), (1, 1, 1), 0),  # a voxel that the edge of another grid has cut off
        (slice(4, 12), slice(12, 16), (1, 1, 1), 1),  # thicker than 3 mm
        (slice(4, 12), slice(12, 13), (1, 1, 5), 0),  # the next of thick slices
        (slice(4, 12), slice(12, 14), (1, 1, 5), 1),
        (slice(4, 34), slice(34, 40), (1, 1, 1), 1),  # a vertebra beside several ignored ones
    ],
)
def test_the_rim_of_an_ignored_finding_is_no_finding(ignored, beside, spacing, counted):
    prediction, stored = np.zeros(SHAPE, bool), np.zeros(SHAPE, np.uint8)
    stored[:, :, ignored] = 255
    prediction[:, :, ignored] = prediction[:, :, beside] = True
    assert len(match_case(prediction, stored, spacing).detections) == counted
    # In a reference fracture it is a part of what was found.
    stored[:, :, beside] = 1
    got = match_case(prediction, stored, spacing)
    assert len(got.detections) == 1
    assert got.true_positives(0.5) == 1


def test_sections_of_a_summary_by_hand():
    vertebrae = slabs(19, 20, 21, 22)
    rows = {19: {"grade": "1", "shape": "wedge"}, 21: {"grade": "3", "shape": "wedge"}}
    reference = np.isin(vertebrae, (19, 21))
    # T12 is a true positive, L2 a false negative, L3 a false positive.
    prediction = np.isin(vertebrae, (19, 22))
    healthy = np.zeros(SHAPE, bool)
    results = [
        result("a", prediction, reference, vertebrae=vertebrae, rows=rows),
        result("b", healthy, healthy, vertebrae=vertebrae),
    ]
    sections = aggregate(results, samples=50).sections
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


def test_froc_curve_rises_with_falling_confidence():
    reference = np.zeros(SHAPE, bool)
    reference[1:5, 1:5, 30:36] = reference[1:5, 1:5, 4:8] = True
    prediction = reference.copy()
    prediction[0:2, 0:2, 18:20] = True
    probability = np.where(reference, 0.6, 0.9)
    probability[..., 30:36] = 0.95
    results = [result("a", prediction, reference, probability=probability)]
    assert froc_curve(results, 0.5) == [(0.95, 0.0, 0.5), (0.9, 1.0, 0.5), (0.6, 1.0, 1.0)]
    # Without probabilities the volume ranks the detections.
    by_volume = froc_curve([result("a", prediction, reference)], 0.5)
    assert [s for _, _, s in by_volume] == [0.5, 1.0, 1.0]
    assert froc_curve([result("h", prediction, np.zeros(SHAPE, bool))], 0.5) == []


def test_patient_score_is_the_highest_of_all_scans():
    empty, full = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    full[2:4, 2:4, 2:4] = True
    results = [result("1", empty, full, "p"), result("2", full, empty, "p"), result("3", empty, empty, "q")]
    assert patient_scores(results) == {"p": (True, pytest.approx(0.008)), "q": (False, 0.0)}


def test_detection_depends_on_min_overlap():
    vertebrae = slabs(20)
    reference = vertebrae == 20
    prediction = reference.copy()
    prediction[:, :, :37] = False  # a quarter is missing
    assert aggregate([result("a", prediction, reference)], 0.75, 20).sections["fractures"]["sensitivity"].value == 1.0
    assert aggregate([result("a", prediction, reference)], 0.8, 20).sections["fractures"]["sensitivity"].value == 0.0


def test_aggregation_of_no_case_is_an_error():
    with pytest.raises(ValueError, match="no case"):
        aggregate([])


def test_froc_curve_equals_counting_at_every_threshold():
    rng = np.random.default_rng(2)
    results = []
    for k in range(6):
        prediction, reference = rng.random((2, 5, 6, 7)) < 0.25
        results.append(result(str(k), prediction, reference, probability=rng.random((5, 6, 7))))
    for threshold, false, sensitivity in froc_curve(results, 0.3):
        matchings = [r.matching for r in results]
        by_hand = sum(d.overlap < 0.3 for m in matchings for d in m.detections if d.confidence >= threshold)
        detected = [t.coverage(m.detections, threshold) >= 0.3 for m in matchings for t in m.targets]
        assert (false, sensitivity) == pytest.approx((by_hand / 6, np.mean(detected)))


def test_detections_are_the_findings_of_the_post_processing():
    # Voxels that share a face are connected, in evaluation as in post-processing.
    prediction = np.random.default_rng(4).random((9, 10, 11)) < 0.3
    detections = match(prediction, np.zeros(prediction.shape, bool), 0.001).detections
    findings = connected_components(prediction, (1.0, 1.0, 1.0))
    assert sorted(round(d.volume_ml * 1000) for d in detections) == sorted(f.voxels for f in findings)
    diagonal = np.zeros((4, 4, 4), bool)
    diagonal[0, 0, 0] = diagonal[1, 1, 1] = True
    got = match(diagonal, diagonal, 0.001)
    assert (len(got.detections), len(got.targets)) == (2, 1)  # a voxel that touches a reference fracture belongs to it
