# SPDX-License-Identifier: Apache-2.0
"""Class of the reference and decision of the prediction for every vertebra."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.instances import match_instances
from scripts.evaluation.vertebra_decisions import decide, reference_class
from vertebra_files import AFFINE, record, renumbered, spine

VERTEBRAE = spine(28, 20, 21, 26)
REFERENCE = np.where(VERTEBRAE == 20, 1, 0).astype(np.uint8)


def decisions(**values) -> dict:
    arguments = {"vertebrae": VERTEBRAE, "reference": REFERENCE, "prediction": REFERENCE, "voxel_ml": 0.008, **values}
    return {d.level: d for d in decide("case", "patient", **arguments)}


@pytest.mark.parametrize(
    ("row", "labelled", "expected"),
    [
        ({"fractured": "1", "grade": ""}, 0.0, True),
        ({"fractured": "0", "grade": "1"}, 1.0, False),  # a set whose fractures begin at grade 2
        ({"fractured": "", "grade": "2"}, 0.0, True),
        ({"grade": "0"}, 1.0, False),
        ({"grade": "x"}, 0.6, True),
        ({}, 0.4, False),
        ({}, 0.5, True),
        ({}, float("nan"), None),
    ],
)
def test_class_of_the_reference(row, labelled, expected):
    assert reference_class(row, labelled) is expected


def test_vertebrae_from_head_to_feet_without_sacrum():
    got = decisions()
    assert list(got) == ["T13", "L1", "L2"]
    assert [(d.fractured, d.flagged) for d in got.values()] == [(False, False), (True, True), (False, False)]
    assert got["L1"].volume_ml == pytest.approx(np.count_nonzero(VERTEBRAE == 20) * 0.008)
    assert (got["L1"].region, got["T13"].region) == ("lumbar", "thoracic")
    assert not any(d.missed for d in got.values())


def test_mask_flags_a_vertebra_from_half_of_it():
    part = REFERENCE * (np.indices(VERTEBRAE.shape)[0] < 5)
    assert decisions(prediction=part)["L1"].flagged
    assert decisions(prediction=part)["L1"].marked == 0.5
    assert not decisions(prediction=part, min_marked=0.6)["L1"].flagged
    # Marks outside every vertebra change nothing.
    assert not any(d.flagged for d in decisions(prediction=VERTEBRAE == 0).values())


def test_probability_of_a_map_is_its_mean():
    probability = np.random.default_rng(0).random(VERTEBRAE.shape)
    got = decisions(probability=probability)
    assert got["L2"].probability == pytest.approx(probability[VERTEBRAE == 21].mean())
    assert np.isnan(decisions()["L2"].probability)


def test_ignored_vertebra_is_unknown():
    reference = REFERENCE.copy()
    reference[VERTEBRAE == 20] = 255
    got = decisions(reference=reference, rows={20: {"grade": "2", "fractured": "1"}})
    assert (got["L1"].fractured, got["L1"].grade, got["L1"].severe) == (None, None, None)
    assert got["L2"].fractured is False
    few = REFERENCE.copy()
    few[..., 42:44][VERTEBRAE[..., 42:44] == 20] = 255
    assert decisions(reference=few)["L1"].fractured is True


def test_rows_of_inference_come_before_the_mask():
    numbers = renumbered(VERTEBRAE, {28: 1, 20: 2, 21: 3})
    matching = match_instances(numbers, VERTEBRAE, AFFINE)
    records = {28: record(1, 0.1), 20: record(2, 0.4), 21: record(3, 0.9)}
    got = decisions(matching=matching, records=records)
    assert [d.flagged for d in got.values()] == [False, False, True]
    assert [d.probability for d in got.values()] == [0.1, 0.4, 0.9]
    assert got["L1"].marked == 1.0


def test_missed_vertebra_is_not_flagged():
    numbers = renumbered(VERTEBRAE, {28: 1, 21: 3})
    matching = match_instances(numbers, VERTEBRAE, AFFINE)
    for records in (None, {28: record(1, 0.1), 21: record(3, 0.2)}):
        got = decisions(matching=matching, records=records, probability=np.ones(VERTEBRAE.shape) if records is None else None)
        assert (got["L1"].missed, got["L1"].flagged, got["L1"].marked) == (True, False, 1.0)
        assert np.isnan(got["L1"].probability)
        assert not got["L2"].missed
    assert decisions(records={28: record(1, 0.1), 21: record(3, 0.2)})["L1"].missed


def test_grade_2_or_3_against_the_rest():
    rows = {28: {"grade": "1", "fractured": "1"}, 20: {"grade": "", "fractured": "1"}, 21: {"grade": "3", "fractured": "1"}}
    assert [d.severe for d in decisions(rows=rows).values()] == [False, None, True]
    assert [d.severe for d in decisions().values()] == [False, None, False]
