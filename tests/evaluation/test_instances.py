# SPDX-License-Identifier: Apache-2.0
"""Instances against reference vertebrae: by definition, invariances, and vertebrae that a reference need not label."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.evaluation.instances import InstanceMatching, match_instances
from scripts.evaluation.vertebra_summary import instance_estimates
from vertebra_files import AFFINE, SHAPE, renumbered, spine

REFERENCE = spine(19, 20, 21, 22)


def values(*matchings: InstanceMatching) -> dict[str, float]:
    estimates = instance_estimates(matchings, [str(k) for k in range(len(matchings))], samples=20)
    return {name: e.value for name, e in estimates.items()}


def by_definition(predicted: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Panoptic quality and DSC from sets of voxels, without the rules about borders."""
    voxels = [{v: set(map(tuple, np.argwhere(a == v))) for v in np.unique(a) if v} for a in (predicted, reference)]
    ious, dices = [], []
    for r in voxels[1].values():
        for p in voxels[0].values():
            if len(p & r) / len(p | r) > 0.5:
                ious.append(len(p & r) / len(p | r))
                dices.append(2 * len(p & r) / (len(p) + len(r)))
    tp, num_p, num_r = len(ious), len(voxels[0]), len(voxels[1])
    return {
        "precision": tp / num_p,
        "recall": tp / num_r,
        "f1": 2 * tp / (num_p + num_r),
        "segmentation quality": sum(ious) / tp,
        "panoptic quality": sum(ious) / (tp + (num_p - tp) / 2 + (num_r - tp) / 2),
        "DSC per matched vertebra": sum(dices) / tp,
        "DSC per reference vertebra": sum(dices) / num_r,
        "DSC of all vertebrae in one mask": 2
        * np.sum((predicted > 0) & (reference > 0))
        / (np.sum(predicted > 0) + np.sum(reference > 0)),
    }


def test_a_perfect_prediction_scores_1():
    assert set(values(match_instances(REFERENCE, REFERENCE, AFFINE)).values()) == {1.0}


def test_numbers_of_instances_do_not_matter():
    noisy = np.roll(REFERENCE, 1, axis=0)
    first = values(match_instances(noisy, REFERENCE, AFFINE))
    for numbers in ((1, 2, 3, 4), (200, 7, 90, 21), (22, 21, 20, 19)):
        other = renumbered(noisy, dict(zip((19, 20, 21, 22), numbers, strict=True)))
        assert values(match_instances(other, REFERENCE, AFFINE)) == first
    assert first["DSC per matched vertebra"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("seed", range(6))
def test_scores_equal_their_definitions(seed):
    rng = np.random.default_rng(seed)
    predicted = np.roll(REFERENCE, int(rng.integers(-1, 2)), axis=int(rng.integers(0, 3)))
    predicted = renumbered(predicted, {19: 3, 20: 3 if rng.random() < 0.5 else 1, 21: 9, 22: 0 if rng.random() < 0.5 else 4})
    predicted[(predicted == 9) & (rng.random(SHAPE) < 0.2)] = 12
    got = values(match_instances(predicted, REFERENCE, AFFINE, partial="count"))
    assert got == pytest.approx(by_definition(predicted, REFERENCE))


def test_fusion_of_two_vertebrae_lowers_recall():
    fused = renumbered(REFERENCE, {19: 1, 20: 2, 21: 2, 22: 4})
    matching = match_instances(fused, REFERENCE, AFFINE)
    assert matching.counts == (2, 1, 2)
    assert matching.false_positives == [2]
    assert values(matching)["recall"] == 0.5
    # Of two vertebrae of different size the larger one is found.
    uneven = spine(20, 21)
    uneven[..., 46:48][uneven[..., 45:46].repeat(2, -1) == 21] = 21
    assert match_instances((uneven > 0).astype(np.uint8), uneven, AFFINE).counts == (1, 0, 1)


def test_what_is_left_out_does_not_change_the_dsc_as_one():
    predicted = spine(18, 19, 20, 21, 22, top=60, gap=4)
    reference = renumbered(predicted, {v: v for v in (19, 20, 21, 22)})
    assert match_instances(predicted, reference, AFFINE).together_dice == 1  # 18 at the border has no label
    assert match_instances(predicted, reference, AFFINE, partial="count").together_dice < 0.95
    cut = spine(19, 20, top=60)  # the end of the scan cuts 19
    half = renumbered(cut, {20: 20})
    half[:5][cut[:5] == 19] = 1
    assert match_instances(half, cut, AFFINE).together_dice == 1
    # Merged vertebrae and exchanged numbers are the same mask, half of them is not.
    assert match_instances((REFERENCE > 0).astype(np.uint8), REFERENCE, AFFINE).together_dice == 1
    first = renumbered(REFERENCE, {19: 1, 20: 2})
    assert match_instances(first, REFERENCE, AFFINE).together_dice == pytest.approx(2 / 3)
    sacrum = spine(23, 24, 26)
    assert match_instances(renumbered(sacrum, {23: 1, 24: 2, 26: 3}), sacrum, AFFINE, partial="count").together_dice == 1
    ignored = match_instances(sacrum, renumbered(sacrum, {23: 23, 26: 24}), AFFINE, partial="count", ignored=sacrum == 24)
    assert ignored.together_dice == 1
    # False voxels count, though the cut vertebra, which does not count, is ignored.
    wide = cut.copy()
    wide[0, :, 30:40] = 20
    labelled = match_instances(wide, cut, AFFINE).together_dice
    assert match_instances(wide, cut, AFFINE, ignored=cut == 19).together_dice == labelled < 1


def test_two_halves_of_a_vertebra_are_false_positives():
    halves = REFERENCE.copy()
    halves[:5][REFERENCE[:5] == 20] = 99
    matching = match_instances(halves, REFERENCE, AFFINE)
    assert matching.counts == (3, 2, 1)
    assert values(matching)["DSC per reference vertebra"] == 0.75


def test_vertebra_without_label_at_the_border_is_left_out():
    predicted = spine(18, 19, 20, 21, 22, top=60, gap=4)
    reference = renumbered(predicted, {v: v for v in (19, 20, 21, 22)})
    matching = match_instances(predicted, reference, AFFINE)
    assert (matching.counts, matching.left_out) == ((4, 0, 0), {18: "border of the scan"})
    assert match_instances(predicted, reference, AFFINE, partial="count").counts == (4, 1, 0)
    # Away from the border: beyond the labelled range it is left out, between labelled vertebrae it is false.
    inside = spine(18, 19, 20, 21)
    beyond = match_instances(inside, renumbered(inside, {20: 20, 21: 21}), AFFINE)
    assert beyond.left_out == dict.fromkeys((18, 19), "beyond the reference vertebrae")
    between = match_instances(inside, renumbered(inside, {18: 18, 20: 20, 21: 21}), AFFINE)
    assert (between.false_positives, between.left_out) == ([19], {})


def test_direction_of_the_axes_does_not_matter():
    predicted = spine(18, 19, 20, 21)
    reference = renumbered(predicted, {20: 20, 21: 21})
    expected = match_instances(predicted, reference, AFFINE)
    flip = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1.0]])
    assert match_instances(predicted[..., ::-1], reference[..., ::-1], flip) == expected
    turned = AFFINE[:, [2, 0, 1, 3]]
    moved = (np.moveaxis(a, 2, 0) for a in (predicted, reference))
    assert match_instances(*moved, turned) == expected


def test_vertebra_that_the_end_of_the_scan_cuts_is_not_counted():
    reference = spine(19, 20, top=60)
    missed = renumbered(reference, {20: 20})
    matching = match_instances(missed, reference, AFFINE)
    assert [(p.label, p.predicted, p.cut, p.counted) for p in matching.pairs] == [(19, 0, True, False), (20, 20, False, True)]
    assert matching.counts == (1, 0, 0)
    assert match_instances(missed, reference, AFFINE, partial="count").counts == (1, 0, 1)
    # Half of the cut vertebra is neither missed nor false.
    half = missed.copy()
    half[:5][reference[:5] == 19] = 1
    assert match_instances(half, reference, AFFINE).left_out == {1: "vertebra that is not counted"}


def test_tip_at_the_end_is_not_cut_and_a_slice_is():
    reference = spine(19, 20, 21)
    reference[2:4, 2:8, 56:60] = 19  # a process of 108 mm2
    reference[2:4, 2:8, :4] = 22  # a slice of another vertebra with the same area
    assert {p.label: p.cut for p in match_instances(reference, reference, AFFINE).pairs} == {
        19: False,
        20: False,
        21: False,
        22: True,
    }


def test_sacrum_and_ignored_bone_are_left_out():
    reference = spine(23, 24, 26)
    matching = match_instances(renumbered(reference, {23: 1, 24: 2, 26: 3}), reference, AFFINE, partial="count")
    assert (matching.counts, matching.left_out) == ((2, 0, 0), {3: "S1"})
    labelled = renumbered(reference, {23: 23, 26: 24})
    ignored = match_instances(reference, labelled, AFFINE, ignored=reference == 24)
    assert ignored.left_out == {24: "ignored voxels"}


def test_empty_prediction_and_empty_reference():
    nothing = np.zeros(SHAPE, np.uint8)
    missed = match_instances(nothing, REFERENCE, AFFINE)
    assert missed.counts == (0, 0, 4)
    assert values(missed)["DSC per reference vertebra"] == 0
    assert np.isnan(values(missed)["precision"])
    assert match_instances(REFERENCE, nothing, AFFINE).counts == (0, 4, 0)
    assert match_instances(nothing, nothing, AFFINE).counts == (0, 0, 0)
    assert np.isnan(values(match_instances(nothing, nothing))["panoptic quality"])


def test_bad_input_is_one_line():
    with pytest.raises(ValueError, match="resample them to one grid"):
        match_instances(REFERENCE[1:], REFERENCE)
    with pytest.raises(ValueError, match="must be one of leave_out, count"):
        match_instances(REFERENCE, REFERENCE, partial="drop")
    with pytest.raises(ValueError, match=r"at least 0\.5"):
        match_instances(REFERENCE, REFERENCE, min_iou=0.2)
