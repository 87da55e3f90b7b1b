# SPDX-License-Identifier: Apache-2.0
"""Transforms of volumes with an output of body decide for whole vertebrae; others are post-processed as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from scripts.postprocessing.findings import PostProcessing
from scripts.postprocessing.marked_probabilities import decides_by_vertebra, marked_probabilities
from scripts.postprocessing.transforms import MarkedProbabilitiesd, PostProcessd
from scripts.postprocessing.vertebra_decision import decide
from scripts.postprocessing.vertebra_instances import find_vertebrae
from spine_scene import Spine, make_spine, overlap


@pytest.fixture(scope="module")
def spine() -> Spine:
    return make_spine(4, fractured=(2, 4))


def logits_of(spine: Spine, num_outputs: int = 4) -> MetaTensor:
    """Logits (C, R, A, S) whose probabilities are those of the spine, clear of 0 and 1."""

    def logit(p: np.ndarray) -> torch.Tensor:
        return torch.logit(torch.from_numpy(p.astype(np.float32)), eps=1e-3)

    fracture = logit(spine.fracture)
    stacked = torch.stack([-fracture / 2, fracture / 2, logit(spine.vertebra), logit(spine.body)])[:num_outputs]
    return MetaTensor(stacked, affine=torch.diag(torch.tensor([*spine.spacing, 1.0], dtype=torch.float64)))


def mask_of(transform, logits: torch.Tensor) -> np.ndarray:
    return np.asarray(transform({"pred": logits})["pred"][0]) > 0


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_mask_is_that_of_whole_vertebrae(spine, threshold):
    logits = logits_of(spine)
    mask = mask_of(PostProcessd("pred", threshold=threshold), logits)
    assert mask.shape == spine.labels.shape
    assert overlap(mask.astype(np.uint8), np.isin(spine.labels, (2, 4)).astype(np.uint8)) > 0.95
    plain = logits.as_tensor()
    vertebra, body, fracture = (torch.sigmoid(v).numpy() for v in (plain[2], plain[3], plain[1] - plain[0]))
    found = decide(find_vertebrae(vertebra, body, spine.spacing), fracture, body, threshold)
    assert np.array_equal(mask, found.mask())


def test_size_and_width_play_no_part(spine):
    plain = mask_of(PostProcessd("pred"), logits_of(spine))
    strict = PostProcessd("pred", min_volume_ml=500.0, min_width_mm=200.0, largest=1, fill_holes=True)
    assert np.array_equal(mask_of(strict, logits_of(spine)), plain)


def test_calibration_moves_the_decision(spine):
    assert not mask_of(PostProcessd("pred", calibration=(1.0, -20.0)), logits_of(spine)).any()
    everything = mask_of(PostProcessd("pred", calibration=(1.0, 20.0)), logits_of(spine))
    assert overlap(everything.astype(np.uint8), (spine.labels > 0).astype(np.uint8)) > 0.95


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_threshold_of_the_marked_probabilities_is_the_mask(spine, threshold):
    logits = logits_of(spine)
    marked = MarkedProbabilitiesd("pred", threshold=threshold)({"pred": logits})["pred"]
    assert isinstance(marked, MetaTensor)
    assert marked.shape == (2, *spine.labels.shape)
    np.testing.assert_allclose(marked.as_tensor().sum(0).numpy(), 1.0, atol=1e-6)
    assert 0 <= float(marked.min()) <= float(marked.max()) <= 1
    mask = mask_of(PostProcessd("pred", threshold=threshold, softmax=False, min_volume_ml=0, min_width_mm=0), marked)
    assert np.array_equal(mask, mask_of(PostProcessd("pred", threshold=threshold), logits))


@pytest.mark.parametrize("num_outputs", [2, 3])
def test_voxelwise_decision_ignores_the_body(spine, num_outputs):
    """Bitwise as a network without that output."""
    settings = {"consistency_mm": None} if num_outputs == 2 else {}
    every = PostProcessd("pred", decision="voxel", **settings)({"pred": logits_of(spine)})["pred"]
    fewer = PostProcessd("pred", **settings)({"pred": logits_of(spine, num_outputs)})["pred"]
    assert torch.equal(torch.as_tensor(every), torch.as_tensor(fewer))


@pytest.mark.parametrize(("shape", "expected"), [((4, 8, 8, 8), True), ((4, 8, 8), False), ((3, 8, 8, 8), False)])
def test_volumes_with_a_body_are_decided_by_vertebra(shape, expected):
    logits = torch.arange(float(np.prod(shape))).reshape(shape)
    assert decides_by_vertebra(logits, PostProcessing()) is expected
    assert not decides_by_vertebra(logits, PostProcessing(decision="voxel"))
    assert not decides_by_vertebra(torch.full(shape, -2.0), PostProcessing())  # an output that was never trained


def test_slices_pass_through_the_softmax(spine):
    plane = logits_of(spine).as_tensor()[:, spine.labels.shape[0] // 2]
    marked = marked_probabilities(plane, PostProcessing())
    torch.testing.assert_close(marked, torch.softmax(plane[:2], dim=0))


@pytest.mark.parametrize("value", [-20.0, 0.0])
def test_volume_without_a_vertebra(value):
    logits = MetaTensor(torch.full((4, 12, 14, 16), value), affine=torch.eye(4, dtype=torch.float64))
    assert not mask_of(PostProcessd("pred"), logits).any()


def test_logits_are_not_changed_in_place(spine):
    logits = logits_of(spine)
    before = logits.clone()
    PostProcessd("pred")({"pred": logits})
    assert torch.equal(logits, before)


def test_tensor_without_an_affine_has_voxels_of_1_mm():
    spine = make_spine(2, spacing=(1.0, 1.0, 1.0), fractured=(1,))
    plain = mask_of(PostProcessd("pred"), logits_of(spine).as_tensor())
    assert np.array_equal(plain, mask_of(PostProcessd("pred"), logits_of(spine)))


@pytest.mark.parametrize("axes", ["SRA", "ARS", "LPI"])
@pytest.mark.parametrize("settings", [PostProcessing(), PostProcessing(decision="voxel", consistency_mm=(18.0, 12.0, 3.0))])
def test_orientation_of_the_volume_does_not_matter(spine, axes, settings):
    """Volumes of axial and coronal networks have other axes than R, A, S."""
    logits = logits_of(spine)[:, :, :, :-4]
    turned = Orientation(axes, labels=None)(logits)
    expected = marked_probabilities(logits, settings)
    found = Orientation("RAS", labels=None)(MetaTensor(marked_probabilities(turned, settings).as_tensor(), affine=turned.affine))
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)


def test_parts_of_whole_vertebrae_are_kept_on_the_way_back(spine):
    """Between both transforms the probabilities are resampled to the grid of the scan."""
    strict = {"min_volume_ml": 500.0, "min_width_mm": 200.0, "largest": 1}
    for outputs, kept in ((4, True), (2, False)):
        marked = MarkedProbabilitiesd("pred")({"pred": logits_of(spine, outputs)})
        result = PostProcessd("pred", softmax=False, **strict)(marked)
        assert bool(result["pred"].any()) == kept
        assert set(result) == {"pred"}


def test_a_sacrum_that_is_found_is_no_fracture():
    tilted = make_spine(
        7, pitch=[6.0, 4.0, 0.0, -4.0, -12.0, -22.0, -58.0], gap=9.0, half_width=22.0, half_depth=17.0, fractured=(3, 7)
    )
    mask = mask_of(PostProcessd("pred"), logits_of(tilted))
    assert mask[tilted.labels == 3].mean() > 0.9
    assert not mask[tilted.labels == 7].any()
