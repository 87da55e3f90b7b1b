# SPDX-License-Identifier: Apache-2.0
"""Slices of a vertebra agree on a fracture, in MONAI's path and in ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import Asked, Threshold, affine_of, look, save, whole
from monai.data import MetaTensor
from scripts.inference.pipeline import Clock, Pipeline
from scripts.inference.predict import PatchConfig
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from scripts.postprocessing.vertebra_consistency import VertebraConsistencyd, apply_consistency

SHAPE = (60, 8, 6)
ISO = (1.5, 1.5, 1.5)
ACROSS = (18.0, 0.0, 0.0)  # from left to right alone
BODY = slice(10, 50)  # 40 slices of 1.5 mm


def vertebra(share: float) -> tuple[np.ndarray, np.ndarray]:
    """A vertebra of which the middle slices are said to be fractured, in all of its rows but the first."""
    bone = np.zeros(SHAPE, np.float32)
    bone[BODY] = 0.95
    sure = np.zeros_like(bone)
    half = round(share * 20)
    sure[30 - half : 30 + half, 1:] = 0.9
    return sure, bone


def test_a_vertebra_that_is_fractured_in_most_slices_becomes_so_in_all_and_one_in_few_slices_in_none():
    for share, expected in ((0.7, True), (0.25, False)):
        sure, bone = vertebra(share)
        apply_consistency(sure, bone, ISO, ACROSS, 0.4)
        assert ((sure[12:48, 1:] > 0.5) == expected).all()
        assert not (sure[:, 0] > 0.5).any()
        assert not (np.delete(sure, np.arange(*BODY.indices(60)), axis=0) > 0.5).any()
        assert 0 <= sure.min() <= sure.max() <= 1


def test_more_fracture_never_gives_less_and_a_greater_share_never_more():
    rng = np.random.default_rng(0)
    bone = rng.random(SHAPE).astype(np.float32)
    low = (bone * rng.random(SHAPE)).astype(np.float32)
    high = np.minimum(low + 0.1 * bone, bone)
    marks = []
    for sure, share in ((low, 0.4), (high, 0.4), (low, 0.6)):
        own = sure.copy()
        apply_consistency(own, bone, ISO, ACROSS, share)
        marks.append(own)
    assert (marks[1] >= marks[0] - 1e-5).all()
    assert (marks[2] <= marks[0] + 1e-5).all()


def test_without_vertebra_or_distance_nothing_changes():
    sure, bone = vertebra(0.5)
    for other, mm in ((0.4 * bone, ACROSS), (bone, None)):
        own = sure.copy()
        apply_consistency(own, other, ISO, mm, 0.4)
        assert np.array_equal(own, sure)
    apply_consistency(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)), ISO, ACROSS, 0.4)


def test_distances_are_mm_and_half_precision_is_kept():
    sure, bone = vertebra(0.6)
    twice = [np.repeat(a, 2, axis=0).astype(np.float16) for a in (sure, bone)]
    apply_consistency(sure, bone, ISO, ACROSS, 0.4)
    apply_consistency(*twice, (0.75, 1.5, 1.5), ACROSS, 0.4)
    assert twice[0].dtype == np.float16
    np.testing.assert_allclose(twice[0][::2], sure, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((18.0, 0.4), "consistency_mm=18.0: must be three"),
        (((18.0, -1.0, 3.0), 0.4), "consistency_mm=.*: must be three"),
        (((18.0, 12.0, 3.0), 1.0), "consistency_fraction=1.0: must be"),
    ],
)
def test_values_out_of_range_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        VertebraConsistencyd("pred", *arguments)


def test_blocks_leave_no_seams(monkeypatch):
    rng = np.random.default_rng(1)
    bone = rng.random((12, 9, 40)).astype(np.float32)
    sure = bone * rng.random(bone.shape).astype(np.float32)
    results = []
    for block in (2**22, 12 * 9 * 4, 1):
        monkeypatch.setattr("scripts.postprocessing.vertebra_consistency.BLOCK_VOXELS", block)
        own = sure.copy()
        apply_consistency(own, bone, ISO, (6.0, 4.0, 3.0), 0.4)
        results.append(own)
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


class Telling(torch.nn.Module):
    """Bone is vertebra, and where it is dense, fractured."""

    def forward(self, x):
        bone = 40 * (x - 0.35)
        return torch.cat([torch.zeros_like(x), bone - 15, bone], dim=1)


def test_the_transform_takes_two_outputs_and_slices_as_they_are():
    logits = torch.randn(3, 5, 6, 7)
    for given, mm in ((logits[:2], ACROSS), (logits, None), (logits[:, :, :, 0], ACROSS)):
        torch.testing.assert_close(VertebraConsistencyd("pred", mm)({"pred": given})["pred"], given[:2].softmax(0))
    affine = torch.diag(torch.tensor([1.5, 1.0, 1.0, 1.0], dtype=torch.float64))
    told = VertebraConsistencyd("pred", (18.0, 12.0, 3.0))({"pred": MetaTensor(logits, affine=affine)})["pred"]
    assert isinstance(told, MetaTensor)
    torch.testing.assert_close(told.sum(0).as_tensor(), torch.ones(5, 6, 7))
    expected = logits[:2].softmax(0)[1].numpy().copy()
    apply_consistency(expected, torch.sigmoid(logits[2]).numpy(), (1.5, 1.0, 1.0), (18.0, 12.0, 3.0), 0.4)
    torch.testing.assert_close(told[1].as_tensor(), torch.from_numpy(expected))


@pytest.mark.parametrize("plane", ["sagittal", "axial"])
def test_two_looks_agree_as_one_does(tmp_path, plane):
    """What is looked at beside a hit holds the rest of its vertebra."""
    shape = (60, 56, 56)
    data = np.full(shape, 40, np.int16)
    data[14:46, 20:40, 18:38] = 500
    data[20:40, 20:40, 18:38] = 900
    path = save(tmp_path / "ct.nii.gz", data, affine_of(shape, (1.5, 1.5, 1.5)))
    marks = {}
    for mm, coarse in ((None, 0.0), (ACROSS, 0.0), (ACROSS, 6.0)):
        search = {"spacing": (-1, -1, -1), "search": "all", "coarse_mm": coarse, "consistency_mm": mm}
        _, found, grid = look(path, Asked(Telling()), PatchConfig((48, 48)), (plane,), **search)
        marks[mm, coarse] = whole(found, grid) > 0.5
    assert np.array_equal(marks[None, 0.0], data == 900)
    assert np.array_equal(marks[ACROSS, 0.0], data >= 500)
    assert np.array_equal(marks[ACROSS, 6.0], data >= 500)


def test_planes_of_which_one_does_not_tell_vertebra_are_left_as_they_are(tmp_path):
    shape = (40, 40, 40)
    data = np.full(shape, 40, np.int16)
    data[8:32, 10:30, 10:30] = 500
    data[14:26, 10:30, 10:30] = 900
    path = save(tmp_path / "ct.nii.gz", data, affine_of(shape, (1.5, 1.5, 1.5)))
    header = read_header(path, require_volume=False)
    runners = {"sagittal": [Asked(Telling())], "coronal": [Asked(Threshold())]}
    volumes = []
    for mm in (ACROSS, None):
        pipeline = Pipeline(runners, PatchConfig((48, 48)), (-1, -1, -1), search="all", coarse_mm=0, consistency_mm=mm)
        grid = pipeline.plan_header(header)
        volumes.append(whole(pipeline(Scan(header, expect_hu=False), grid, Clock()), grid))
    assert volumes[1].max() > 0.5
    assert np.array_equal(*volumes)
