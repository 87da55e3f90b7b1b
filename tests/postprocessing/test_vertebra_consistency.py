# SPDX-License-Identifier: Apache-2.0
"""Vertebra-level consistency of probabilities, as a function, as a transform and in the pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import FakeRunner, Threshold, affine_of, on_whole_grid, predict, save
from monai.data import MetaTensor
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from scripts.postprocessing.findings import PostProcessing
from scripts.postprocessing.vertebra_consistency import VertebraConsistencyd, apply_consistency

SHAPE = (60, 8, 6)
ISO = (1.5, 1.5, 1.5)
ACROSS = (18.0, 0.0, 0.0)  # from left to right alone
BODY = slice(10, 50)  # 40 slices of 1.5 mm


def vertebra(fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Fracture in the middle slices of a vertebra, in all of its rows but the first, and the vertebra."""
    bone = np.zeros(SHAPE, np.float32)
    bone[BODY] = 0.95
    fracture = np.zeros_like(bone)
    half = round(fraction * 20)
    fracture[30 - half : 30 + half, 1:] = 0.9
    return fracture, bone


def test_most_slices_decide_for_the_whole_vertebra():
    for fraction, expected in ((0.7, True), (0.25, False)):
        fracture, bone = vertebra(fraction)
        apply_consistency(fracture, bone, ISO, ACROSS, 0.4)
        assert ((fracture[12:48, 1:] > 0.5) == expected).all()
        assert not (fracture[:, 0] > 0.5).any()
        assert not (np.delete(fracture, np.arange(*BODY.indices(60)), axis=0) > 0.5).any()
        assert 0 <= fracture.min() <= fracture.max() <= 1


def test_result_is_monotonic_in_fracture_and_fraction():
    rng = np.random.default_rng(0)
    bone = rng.random(SHAPE).astype(np.float32)
    low = (bone * rng.random(SHAPE)).astype(np.float32)
    high = np.minimum(low + 0.1 * bone, bone)
    results = []
    for fracture, fraction in ((low, 0.4), (high, 0.4), (low, 0.6)):
        result = fracture.copy()
        apply_consistency(result, bone, ISO, ACROSS, fraction)
        results.append(result)
    assert (results[1] >= results[0] - 1e-5).all()
    assert (results[2] <= results[0] + 1e-5).all()


def test_without_vertebra_or_distance_nothing_changes():
    fracture, bone = vertebra(0.5)
    for other, mm in ((0.4 * bone, ACROSS), (bone, None)):
        result = fracture.copy()
        apply_consistency(result, other, ISO, mm, 0.4)
        assert np.array_equal(result, fracture)
    apply_consistency(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)), ISO, ACROSS, 0.4)


def test_distances_are_mm_and_half_precision_remains():
    fracture, bone = vertebra(0.6)
    twice = [np.repeat(a, 2, axis=0).astype(np.float16) for a in (fracture, bone)]
    apply_consistency(fracture, bone, ISO, ACROSS, 0.4)
    apply_consistency(*twice, (0.75, 1.5, 1.5), ACROSS, 0.4)
    assert twice[0].dtype == np.float16
    np.testing.assert_allclose(twice[0][::2], fracture, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((18.0, 0.4), "consistency_mm=18.0: must be three"),
        (((18.0, -1.0, 3.0), 0.4), "consistency_mm=.*: must be three"),
        (((18.0, 12.0, 3.0), 1.0), "consistency_fraction=1.0: must be"),
    ],
)
def test_values_out_of_range_are_rejected(arguments, word):
    with pytest.raises(ValueError, match=word):
        VertebraConsistencyd("pred", *arguments)


def test_blocks_have_no_seams(monkeypatch):
    rng = np.random.default_rng(1)
    bone = rng.random((12, 9, 40)).astype(np.float32)
    fracture = bone * rng.random(bone.shape).astype(np.float32)
    results = []
    for block in (2**22, 12 * 9 * 4, 1):
        monkeypatch.setattr("scripts.postprocessing.vertebra_consistency.BLOCK_VOXELS", block)
        result = fracture.copy()
        apply_consistency(result, bone, ISO, (6.0, 4.0, 3.0), 0.4)
        results.append(result)
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


class DenseBone(torch.nn.Module):
    """Vertebra in bone, fracture in dense bone."""

    def forward(self, x):
        bone = 40 * (x - 0.35)
        return torch.cat([torch.zeros_like(x), bone - 15, bone], dim=1)


def test_two_outputs_and_slices_get_the_softmax_only():
    logits = torch.randn(3, 5, 6, 7)
    for tensor, mm in ((logits[:2], ACROSS), (logits, None), (logits[:, :, :, 0], ACROSS)):
        torch.testing.assert_close(VertebraConsistencyd("pred", mm)({"pred": tensor})["pred"], tensor[:2].softmax(0))
    affine = torch.diag(torch.tensor([1.5, 1.0, 1.0, 1.0], dtype=torch.float64))
    out = VertebraConsistencyd("pred", (18.0, 12.0, 3.0))({"pred": MetaTensor(logits, affine=affine)})["pred"]
    assert isinstance(out, MetaTensor)
    torch.testing.assert_close(out.sum(0).as_tensor(), torch.ones(5, 6, 7))
    expected = logits[:2].softmax(0)[1].numpy().copy()
    apply_consistency(expected, torch.sigmoid(logits[2]).numpy(), (1.5, 1.0, 1.0), (18.0, 12.0, 3.0), 0.4)
    torch.testing.assert_close(out[1].as_tensor(), torch.from_numpy(expected))


@pytest.mark.parametrize("plane", ["sagittal", "axial"])
def test_coarse_pass_covers_the_rest_of_a_vertebra(tmp_path, plane):
    shape = (60, 56, 56)
    data = np.full(shape, 40, np.int16)
    data[14:46, 20:40, 18:38] = 500
    data[20:40, 20:40, 18:38] = 900
    path = save(tmp_path / "ct.nii.gz", data, affine_of(shape, (1.5, 1.5, 1.5)))
    masks = {}
    for mm, coarse in ((None, 0.0), (ACROSS, 0.0), (ACROSS, 6.0)):
        search = {"spacing": (-1, -1, -1), "search": "all", "coarse_mm": coarse, "consistency_mm": mm}
        _, predicted, grid = predict(path, FakeRunner(DenseBone()), PatchConfig((48, 48)), (plane,), **search)
        masks[mm, coarse] = on_whole_grid(predicted, grid) > 0.5
    assert np.array_equal(masks[None, 0.0], data == 900)
    assert np.array_equal(masks[ACROSS, 0.0], data >= 500)
    assert np.array_equal(masks[ACROSS, 6.0], data >= 500)


def test_consistency_needs_vertebra_output_in_every_plane(tmp_path):
    shape = (40, 40, 40)
    data = np.full(shape, 40, np.int16)
    data[8:32, 10:30, 10:30] = 500
    data[14:26, 10:30, 10:30] = 900
    path = save(tmp_path / "ct.nii.gz", data, affine_of(shape, (1.5, 1.5, 1.5)))
    header = read_header(path, require_volume=False)
    runners = {"sagittal": [FakeRunner(DenseBone())], "coronal": [FakeRunner(Threshold())]}
    volumes = []
    for mm in (ACROSS, None):
        post = PostProcessing(consistency_mm=mm)
        pipeline = Pipeline(runners, PatchConfig((48, 48)), post, (-1, -1, -1), search="all", coarse_mm=0)
        grid = pipeline.working_grid(header)
        volumes.append(on_whole_grid(pipeline(Scan(header, expect_hu=False), grid), grid))
    assert volumes[1].max() > 0.5
    assert np.array_equal(*volumes)
