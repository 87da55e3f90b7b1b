# SPDX-License-Identifier: Apache-2.0
"""Ignored voxels become background in the label and in the prediction."""

from __future__ import annotations

import torch
from scripts.data.transforms import MaskIgnoredd


def test_ignored_voxels_become_background():
    label = torch.tensor([[0, 1, 255, 255]])
    pred = torch.tensor([[1, 1, 1, 0]])
    out = MaskIgnoredd(keys=["label", "pred"], label_key="label")({"label": label, "pred": pred, "other": 3})
    assert out["label"].tolist() == [[0, 1, 0, 0]]
    assert out["pred"].tolist() == [[1, 1, 0, 0]]
    assert out["other"] == 3
    assert label.tolist() == [[0, 1, 255, 255]]
