# SPDX-License-Identifier: Apache-2.0
"""Masks of an evaluation: one file for each case, also of images of one name."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage
from scripts.evaluation.case_layout import CaseLayout


def test_masks_of_images_of_one_name_are_all_written(tmp_path):
    cases = [{"image": f"/x/p{k}/ct.nii.gz", "label": f"/x/p{k}/p{k}.nii.gz"} for k in range(2)]
    cases.append({"image": "/x/p2/ct.nii.gz", "label": "/x/p2/p0.nii.gz"})
    save = SaveImage(folder_layout=CaseLayout(str(tmp_path / "masks"), cases), print_log=False)
    for case in cases:
        save(MetaTensor(torch.zeros(1, 4, 4, 4), meta={"filename_or_obj": case["image"]}))
    files = {f.relative_to(tmp_path / "masks").as_posix() for f in (tmp_path / "masks").rglob("*.nii.gz")}
    assert files == {"p0.nii.gz", "p1.nii.gz", "p2/p0.nii.gz"}
