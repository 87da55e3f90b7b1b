# SPDX-License-Identifier: Apache-2.0
"""Candidates of the tuning score exactly as the masks of the post-processing do."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scripts.core.errors import InputError
from scripts.evaluation.tune_postprocessing import case_candidates
from scripts.postprocessing.findings import PostProcessing
from scripts.postprocessing.probability_map import Probabilities

SPACING = (2.0, 1.0, 1.5)


@profile(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.sampled_from([0.0, 0.02, 0.1, 1.0, 1e3]),
    st.sampled_from([0.0, 6.0, 12.0]),
    st.booleans(),
    st.sampled_from([None, 1, 2]),
)
def test_dice_of_candidates_equals_that_of_masks(seed, threshold, min_volume_ml, min_width_mm, fill_holes, largest):
    rng = np.random.default_rng(seed)
    volume = gaussian_filter(rng.random((14, 15, 16)), 1.2)
    volume = ((volume - volume.min()) / np.ptp(volume)).astype(np.float16)
    reference = np.zeros((20, 20, 20), bool)
    reference[3:17, 4:19, 2:18] = gaussian_filter(rng.random(volume.shape), 1.2)[:, :15] > 0.5
    candidates = case_candidates(Probabilities(volume, (3, 4, 2)), reference, SPACING, threshold, fill_holes)
    settings = PostProcessing(threshold, min_volume_ml, min_width_mm, fill_holes, largest)
    numbers = settings(volume, SPACING)
    mask = np.zeros(reference.shape, bool)
    mask[3:17, 4:19, 2:18] = (numbers > 0) & (volume > threshold)
    total = mask.sum() + reference.sum()
    expected = 2 * (mask & reference).sum() / total if total else 1.0
    assert candidates.dice(settings) == pytest.approx(expected)


def test_voxels_without_ground_truth_do_not_count():
    volume = np.zeros((12, 12, 12), np.float16)
    volume[2:6, 2:6, 2:6] = volume[8:11, 8:11, 8:11] = 0.9
    reference, ignored = np.zeros((2, 12, 12, 12), bool)
    reference[2:6, 2:6, 2:6] = True
    settings = PostProcessing(min_volume_ml=0, min_width_mm=0)
    found = Probabilities(volume, (0, 0, 0))
    assert case_candidates(found, reference, SPACING, 0.5, False, ignored).dice(settings) < 1
    ignored[8:, 8:, 8:] = True
    assert case_candidates(found, reference, SPACING, 0.5, False, ignored).dice(settings) == 1


def test_no_finding_scores_1_without_a_reference_and_0_with_one():
    empty = Probabilities(np.zeros((0, 0, 0), np.float16), (0, 0, 0))
    settings = PostProcessing(min_volume_ml=0, min_width_mm=0)
    for voxel, expected in ((False, 1.0), (True, 0.0)):
        reference = np.full((3, 3, 3), voxel)
        assert case_candidates(empty, reference, SPACING, 0.5, True).dice(settings) == expected


def test_network_with_a_body_is_refused_by_its_remedy(tmp_path, monkeypatch):
    """Whole vertebrae have a calibration, and neither sizes nor widths."""
    from scripts.evaluation import tune_postprocessing as module

    (tmp_path / "datalist.json").write_text(json.dumps({"validation": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}))
    pipeline = SimpleNamespace(by_vertebra=True, post=PostProcessing())
    parser = SimpleNamespace(get_parsed_content=lambda name: SimpleNamespace(pipeline=lambda: pipeline))
    monkeypatch.setattr(module, "read_config", lambda *_: parser)
    with pytest.raises(InputError, match="calibrate it with"):
        module.tune(data=str(tmp_path), out=str(tmp_path / "out"), checkpoint="model.pt")
    assert not (tmp_path / "out").exists()
