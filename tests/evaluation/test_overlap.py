# SPDX-License-Identifier: Apache-2.0
"""Case metrics against scikit-learn and brute force, on random and adversarial masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist
from scripts.evaluation.overlap import bounding_box, case_metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")
SPACINGS = [(1.0, 1.0, 1.0), (0.3, 0.3, 3.0), (2.0, 0.7, 1.1)]


def pairs(min_dims: int = 2, max_dims: int = 3):
    shapes = array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=1, max_side=7)
    return shapes.flatmap(lambda s: st.tuples(arrays(bool, s), arrays(bool, s)))


def surface(mask: np.ndarray) -> np.ndarray:
    """Indices of the voxels of a mask that touch its outside or the border."""
    return np.argwhere(mask & ~binary_erosion(mask))


@settings(max_examples=150, deadline=None)
@given(pairs())
def test_overlap_equals_scikit_learn(masks):
    p, r = masks
    got = case_metrics(p, r, [1.0] * p.ndim)
    if r.any():
        assert got["dice"] == pytest.approx(sklearn_metrics.f1_score(r.ravel(), p.ravel(), zero_division=0.0))
        assert got["iou"] == pytest.approx(sklearn_metrics.jaccard_score(r.ravel(), p.ravel(), zero_division=0.0))
    else:
        assert got["dice"] == got["iou"] == got["nsd"] == float(not p.any())
    assert got["iou"] == pytest.approx(got["dice"] / (2 - got["dice"]))
    if 0 < r.sum() < r.size:
        both = sklearn_metrics.jaccard_score(r.ravel(), p.ravel(), average="macro", zero_division=0.0)
        assert got["iou_with_background"] == pytest.approx(both)
    assert got["volume_error_ml"] == pytest.approx((p.sum() - r.sum()) / 1000)
    assert got["false_positive_ml"] == pytest.approx(np.sum(p & ~r) / 1000)


@settings(max_examples=100, deadline=None)
@given(pairs(), st.sampled_from(SPACINGS), st.sampled_from([0.5, 1.0, 3.0]))
def test_surface_distances_equal_those_of_all_pairs(masks, spacing, tolerance):
    p, r = masks
    step = np.array(spacing[: p.ndim])
    got = case_metrics(p, r, step, tolerance)
    if not (p.any() and r.any()):
        assert np.isnan(got["hd95_mm"])
        assert np.isnan(got["assd_mm"])
        return
    between = cdist(surface(p) * step, surface(r) * step)
    one, other = between.min(axis=1), between.min(axis=0)
    both = np.concatenate([one, other])
    assert got["assd_mm"] == pytest.approx(both.mean(), abs=1e-4)
    assert got["hd95_mm"] == pytest.approx(max(np.percentile(one, 95), np.percentile(other, 95)), abs=1e-4)
    # Distances that equal the tolerance up to rounding may fall on either side.
    low, high = (np.mean(both <= tolerance + d) for d in (-1e-4, 1e-4))
    assert low <= got["nsd"] <= high


@settings(max_examples=50, deadline=None)
@given(pairs(3, 3))
def test_overlap_and_distances_are_symmetric(masks):
    p, r = masks
    one, other = case_metrics(p, r, (1, 1, 2)), case_metrics(r, p, (1, 1, 2))
    for name in ("dice", "iou", "iou_with_background", "nsd", "hd95_mm", "assd_mm"):
        assert one[name] == pytest.approx(other[name], nan_ok=True)
    assert one["volume_error_ml"] == pytest.approx(-other["volume_error_ml"])


@settings(max_examples=50, deadline=None)
@given(pairs(3, 3), st.integers(0, 10_000))
def test_ignored_voxels_do_not_count(masks, seed):
    p, r = masks
    rng = np.random.default_rng(seed)
    ignored = rng.random(r.shape) < 0.3
    reference = np.where(ignored, 255, r.astype(np.uint8))
    got = case_metrics(p, reference, (1, 1, 1), ignore_index=255)
    flipped = case_metrics(np.where(ignored, rng.random(r.shape) < 0.5, p), reference, (1, 1, 1), ignore_index=255)
    assert got == pytest.approx(flipped, nan_ok=True)
    assert got["reference_ml"] == pytest.approx(np.sum(r & ~ignored) / 1000)


def test_hd95_of_a_shift_by_one_slice_is_its_thickness():
    r = np.zeros((9, 9, 9), bool)
    r[3:6, 3:6, 3:6] = True
    got = case_metrics(np.roll(r, 1, axis=2), r, (0.3, 0.3, 3.0))
    assert got["hd95_mm"] == pytest.approx(3.0)
    assert got["nsd"] < 1
    assert case_metrics(np.roll(r, 1, axis=0), r, (0.3, 0.3, 3.0))["nsd"] == 1.0


def test_empty_references_follow_the_chosen_rule():
    empty, one = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    one[1, 1, 1] = 1
    assert case_metrics(empty, empty, (1, 1, 1))["dice"] == 1.0
    assert case_metrics(one, empty, (1, 1, 1))["dice"] == 0.0
    assert case_metrics(empty, one, (1, 1, 1))["iou"] == 0.0
    assert np.isnan(case_metrics(one, empty, (1, 1, 1), empty_reference="exclude")["dice"])
    assert case_metrics(empty, one, (1, 1, 1), empty_reference="exclude")["dice"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference": np.zeros((2, 2, 3))}, "share a grid"),
        ({"spacing": (1, 1)}, "size in mm per axis"),
        ({"spacing": (1, 0, 1)}, "size in mm per axis"),
        ({"empty_reference": "drop"}, "score, exclude"),
        ({"ignore_index": 0}, "is the background"),
    ],
)
def test_bad_arguments_have_value_and_remedy(arguments, message):
    given_ = {"prediction": np.zeros((2, 2, 2)), "reference": np.zeros((2, 2, 2)), "spacing": (1, 1, 1), **arguments}
    with pytest.raises(ValueError, match=message):
        case_metrics(**given_)


def test_bounding_box_is_the_smallest_of_both_masks():
    a, b = np.zeros((5, 6), bool), np.zeros((5, 6), bool)
    a[1, 2] = b[3, 2] = True
    assert bounding_box(a, b) == (slice(1, 4), slice(2, 3))
    assert bounding_box(a & b) == (slice(0, 0), slice(0, 0))


@settings(max_examples=50, deadline=None)
@given(pairs(2, 3), st.permutations([0, 1, 2]), st.sampled_from("CF"))
def test_bounding_box_is_independent_of_memory_order(masks, order, memory):
    stored = [np.asarray(m, np.uint8, order=memory).transpose(order[: m.ndim] if m.ndim == 3 else None) for m in masks]
    indices = np.argwhere(stored[0] | stored[1])
    if len(indices):
        expected = tuple(slice(a, b + 1) for a, b in zip(indices.min(0), indices.max(0), strict=True))
    else:
        expected = (slice(0, 0),) * stored[0].ndim
    assert bounding_box(*stored) == expected
