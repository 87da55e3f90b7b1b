# SPDX-License-Identifier: Apache-2.0
"""Overlays of cases: their number, and their paths when scans share a name."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from scripts.visualization.overlay_writer import OverlayWriter


@pytest.fixture
def finished(tmp_path):
    """Engine of an evaluator after three scans, two of one name."""
    from monai.data import MetaTensor

    batch, output = [], []
    for name in ("a/scan.nii.gz", "b/scan.nii.gz", "c/other.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir()
        data = np.random.default_rng(0).integers(-100, 400, (12, 14, 16)).astype(np.int16)
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        pred = torch.zeros(1, 12, 14, 16)
        pred[:, 4:8, 4:8, 4:8] = 1
        image = MetaTensor(torch.zeros(1, 12, 14, 16), meta={"filename_or_obj": str(path)})
        batch.append({"image": image})
        output.append({"pred": pred, "image": image})
    return SimpleNamespace(state=SimpleNamespace(batch=batch, output=output))


@pytest.mark.parametrize(("limit", "number"), [(None, 3), (2, 2), (0, 0)])
def test_the_limit_bounds_the_number_of_overlays(finished, tmp_path, limit, number):
    OverlayWriter(str(tmp_path / "out"), limit=limit)(finished)
    assert len(list((tmp_path / "out").rglob("*_overlay.png"))) == number


def test_scans_of_one_name_have_an_overlay_each(finished, tmp_path):
    OverlayWriter(str(tmp_path / "out"))(finished)
    assert (tmp_path / "out" / "scan_overlay.png").is_file()
    assert (tmp_path / "out" / "b" / "scan_overlay.png").is_file()
    OverlayWriter(str(tmp_path / "tree"), source_root=str(tmp_path))(finished)
    assert {p.parent.name for p in (tmp_path / "tree").rglob("*.png")} == {"a", "b", "c"}


def test_overlays_of_an_evaluation_are_named_like_its_cases(finished, tmp_path):
    from monai.data import MetaTensor

    labels = [str(tmp_path / label) for label in ("m/p1.nii.gz", "n/p1.nii.gz", "m/p2.nii.gz")]
    for item, label in zip(finished.state.output, labels, strict=True):
        item["truth"] = MetaTensor(item["pred"].clone(), meta={"filename_or_obj": label})
    images = [item["image"].meta["filename_or_obj"] for item in finished.state.output]
    cases = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    OverlayWriter(str(tmp_path / "out"), reference_key="truth", cases=cases)(finished)
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")}
    assert names == {"m_overlay.png", "n_overlay.png", "p2_overlay.png"}
