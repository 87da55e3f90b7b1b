# SPDX-License-Identifier: Apache-2.0
"""Unknown voxels become background in the label and in what is judged by it; narrow parts of masks are dropped."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scripts.data.transforms import MaskIgnoredd
from scripts.postprocessing.transforms import RemoveNarrowComponentsd, longest_run


def test_unknown_voxels_become_background_everywhere():
    label = torch.tensor([[0, 1, 255, 255]])
    pred = torch.tensor([[1, 1, 1, 0]])
    out = MaskIgnoredd(keys=["label", "pred"], label_key="label")({"label": label, "pred": pred, "other": 3})
    assert out["label"].tolist() == [[0, 1, 0, 0]]
    assert out["pred"].tolist() == [[1, 1, 0, 0]]
    assert out["other"] == 3
    assert label.tolist() == [[0, 1, 255, 255]]


def test_the_longest_run_is_that_of_a_search_line_by_line():
    mask = np.random.default_rng(0).random((9, 5, 6)) > 0.4
    lines = ["".join("x" if v else " " for v in line) for line in mask.reshape(9, -1).T]
    assert longest_run(mask) == max(len(run) for line in lines for run in line.split())
    assert longest_run(np.zeros((4, 3, 2), bool)) == longest_run(np.zeros((0, 3, 2), bool)) == 0


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_parts_that_are_narrow_from_left_to_right_are_dropped_in_any_orientation(codes):
    array = np.zeros((20, 14, 16), np.uint8)
    array[1:9, 1:5, 1:5] = 1  # 16 mm wide
    array[12:17, 1:13, 6:15] = 1  # 10 mm wide, and large
    stored = nib.Nifti1Image(array, np.diag([2.0, 1.5, 1.0, 1.0]))
    stored = stored.as_reoriented(ornt_transform(io_orientation(stored.affine), axcodes2ornt(tuple(codes))))
    mask = MetaTensor(torch.from_numpy(np.asarray(stored.dataobj).copy())[None], affine=torch.from_numpy(stored.affine))
    for width, left in ((0, 128 + 540), (9, 128 + 540), (12, 128), (17, 0)):
        out = RemoveNarrowComponentsd(keys="pred", min_width=width)({"pred": mask})["pred"]
        assert int(out.sum()) == left
        assert out.shape == mask.shape
    assert int(mask.sum()) == 128 + 540


def test_a_width_that_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="min_width=-1; give a distance in mm"):
        RemoveNarrowComponentsd(keys="pred", min_width=-1)
    with pytest.raises(ValueError, match="`pred` has no affine"):
        RemoveNarrowComponentsd(keys="pred", min_width=3)({"pred": torch.ones(1, 4, 4, 4)})
