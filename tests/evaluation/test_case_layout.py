# SPDX-License-Identifier: Apache-2.0
"""Masks of an evaluation: one file for each case, also of images of one name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage
from scripts.core.errors import InputError
from scripts.evaluation.case_layout import CaseLayout


def test_masks_of_images_of_one_name_are_all_written(tmp_path):
    cases = [{"image": f"/x/./p{k}/ct.nii.gz", "label": f"/x/p{k}/p{k}.nii.gz"} for k in range(2)]
    cases += [{"image": "/x/p2/ct.nii.gz", "label": "/x/p2/p2.nii.gz"}, {"image": "/x/p3/ct.nii.gz"}]
    save = SaveImage(folder_layout=CaseLayout(str(tmp_path / "masks"), cases), print_log=False)
    for case in cases[:3]:
        save(MetaTensor(torch.zeros(1, 4, 4, 4), meta={"filename_or_obj": str(Path(case["image"]))}))
    files = {f.relative_to(tmp_path / "masks").as_posix() for f in (tmp_path / "masks").rglob("*.nii.gz")}
    assert files == {"p0.nii.gz", "p1.nii.gz", "p2.nii.gz"}


def test_two_labels_of_an_image_are_refused(tmp_path):
    cases = [{"image": "a.nii.gz", "label": f"reader{k}/a.nii.gz"} for k in range(2)]
    layout = CaseLayout(str(tmp_path), cases)  # also made where no mask is saved
    with pytest.raises(InputError, match=r"a\.nii\.gz: has the labels reader0, reader1, and one mask is saved"):
        layout.filename("a.nii.gz")
    assert CaseLayout(str(tmp_path), [cases[0], cases[0]]).filename("a.nii.gz") == str(tmp_path / "a.nii.gz")


def test_no_mask_leaves_its_folder(tmp_path):
    """Folders whose names are equal without the endings of tools: a path would replace the label itself."""
    cases = [{"image": f"/i/{k}.nii.gz", "label": f"{tmp_path}/case_000{k}/seg.nii.gz"} for k in range(2)]
    layout = CaseLayout(str(tmp_path / "masks"), cases)
    assert [layout.filename(c["image"]) for c in cases] == [str(tmp_path / "masks" / f"case_000{k}.nii.gz") for k in range(2)]


def test_scans_that_share_a_label_have_a_mask_each(tmp_path):
    cases = [{"image": f"{k}/p1_{k}.nii.gz", "label": "labels/p1.nii.gz"} for k in ("soft", "bone")]
    layout = CaseLayout(str(tmp_path), cases)
    assert len({layout.filename(c["image"]) for c in cases}) == 2
