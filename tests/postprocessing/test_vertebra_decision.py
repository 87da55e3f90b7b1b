# SPDX-License-Identifier: Apache-2.0
"""The decision is a weighted mean over the body, monotone in every voxel, on a calibrated scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from scripts.postprocessing.vertebra_decision import calibrate, check_calibration, decide
from scripts.postprocessing.vertebra_instances import VertebraInstances, find_vertebrae
from spine_scene import make_spine

PROBABILITIES = st.floats(0, 1)
CALIBRATIONS = st.tuples(st.floats(0.05, 10), st.floats(-8, 8))


def columns() -> VertebraInstances:
    """Two vertebrae of 4 x 6 x 5 voxels whose front halves are bodies."""
    labels, bodies = np.zeros((4, 6, 12), np.uint8), np.zeros((4, 6, 12), bool)
    labels[:, :, 6:11], labels[:, :, 0:5] = 1, 2
    bodies[:, 3:] = labels[:, 3:] > 0
    return VertebraInstances(labels, bodies, {1: True, 2: True})


@profile(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_mean_over_the_body_weighted_by_its_probability(seed, weighted):
    rng, instances = np.random.default_rng(seed), columns()
    fracture, body = rng.random((2, *instances.labels.shape))
    decisions = decide(instances, fracture, body if weighted else None)
    for number in (1, 2):
        inside = (instances.labels == number) & instances.bodies
        weights = np.maximum(body[inside], 1e-3) if weighted else np.ones(inside.sum())
        assert decisions.raw[number] == pytest.approx(np.average(fracture[inside], weights=weights))


def test_posterior_elements_and_surroundings_do_not_count():
    instances = columns()
    fracture = np.where(instances.bodies, 0.2, 0.9)
    assert decide(instances, fracture, None).raw == pytest.approx({1: 0.2, 2: 0.2})


@profile(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), CALIBRATIONS)
def test_more_fracture_never_lowers_a_probability(seed, calibration):
    rng, instances = np.random.default_rng(seed), columns()
    low, body = rng.random((2, *instances.labels.shape))
    high = low + (1 - low) * rng.random(low.shape)
    before = decide(instances, low, body, calibration=calibration)
    after = decide(instances, high, body, calibration=calibration)
    assert all(after.probability[n] >= before.probability[n] for n in (1, 2))
    assert set(before.fractured) <= set(after.fractured)


def test_threshold_itself_is_a_fracture():
    instances = columns()
    fracture = np.where(instances.labels == 1, 0.5, 0.5 - 2**-10).astype(np.float16)
    decisions = decide(instances, fracture, None, threshold=0.5)
    assert decisions.fractured == [1]
    assert np.array_equal(decisions.mask(), instances.labels == 1)


def test_raw_and_calibrated_probability():
    decisions = decide(columns(), np.full((4, 6, 12), 0.3), None, calibration=(2.0, 1.0))
    assert decisions.raw[1] == pytest.approx(0.3)
    assert decisions.probability[1] == pytest.approx(calibrate(0.3, (2.0, 1.0)))


def test_unknown_probability_is_no_fracture():
    instances = columns()
    instances.bodies[instances.labels == 2] = False
    fracture = np.where(instances.labels == 1, np.nan, 0.9)
    decisions = decide(instances, fracture, None)
    assert math.isnan(decisions.probability[1])
    assert math.isnan(decisions.probability[2])
    assert decisions.fractured == []
    assert not decisions.mask().any()


@pytest.mark.parametrize("shape", [(0, 0, 0), (3, 4, 5)], ids=str)
def test_nothing_to_decide(shape):
    instances = VertebraInstances(np.zeros(shape, np.uint8), np.zeros(shape, bool), {})
    decisions = decide(instances, np.ones(shape), np.ones(shape))
    assert (decisions.probability, decisions.fractured) == ({}, [])
    assert decisions.mask().shape == shape


@pytest.mark.parametrize("fractured", [(), (2,), (1, 4), (1, 2, 3, 4)], ids=str)
def test_fractured_vertebrae_of_a_spine(fractured):
    spine = make_spine(4, fractured=fractured, facets=True)
    decisions = decide(find_vertebrae(spine.vertebra, spine.body, spine.spacing), spine.fracture, spine.body)
    assert decisions.fractured == list(fractured)
    for number, p in decisions.probability.items():
        assert p > 0.9 if number in fractured else p < 0.1


@given(st.floats(1e-4, 1 - 1e-4))
def test_slope_1_and_intercept_0_change_nothing(p):
    assert calibrate(p, (1.0, 0.0)) == pytest.approx(p, rel=1e-9)


@given(PROBABILITIES, PROBABILITIES, CALIBRATIONS)
def test_calibration_is_monotone_within_0_and_1(p, q, calibration):
    low, high = calibrate(min(p, q), calibration), calibrate(max(p, q), calibration)
    assert 0 <= low <= high <= 1


@given(st.floats(0.01, 0.99), CALIBRATIONS)
def test_inverse_calibration(p, calibration):
    slope, intercept = calibration
    inverse = (1 / slope, -intercept / slope)
    shifted = calibrate(p, calibration)
    if 2e-4 < shifted < 1 - 2e-4:
        assert calibrate(shifted, inverse) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize("calibration", [(1e4, 0.0), (1.0, -1e4), (1.0, 1e4)], ids=str)
def test_extreme_calibration_stays_a_probability(calibration):
    assert all(0 <= calibrate(p, calibration) <= 1 for p in (0.0, 0.3, 0.7, 1.0))
    assert math.isnan(calibrate(float("nan"), calibration))


@pytest.mark.parametrize(
    "value", [1.0, "1", [1.0], [1.0, 0.0, 2.0], [0.0, 0.0], [-1.0, 0.0], [1.0, float("nan")], ["1", "0"], None]
)
def test_value_that_is_no_calibration(value):
    with pytest.raises(ValueError, match=r"calibration=.*must be \[slope, intercept\]"):
        check_calibration(value)


def test_calibration_may_be_a_list_of_whole_numbers():
    assert check_calibration([1, 0]) == (1.0, 0.0)
