# SPDX-License-Identifier: Apache-2.0
"""Unknown voxels become background in the label and in what is judged by it; slices become channels of their neighbours."""

from __future__ import annotations

import pytest
import torch
from scripts.data.transforms import LeaveOutUnknownd, StackNeighboursd


def test_unknown_voxels_become_background_everywhere():
    label = torch.tensor([[0, 1, 255, 255]])
    pred = torch.tensor([[1, 1, 1, 0]])
    out = LeaveOutUnknownd(keys=["label", "pred"], label_key="label")({"label": label, "pred": pred, "other": 3})
    assert out["label"].tolist() == [[0, 1, 0, 0]]
    assert out["pred"].tolist() == [[1, 1, 0, 0]]
    assert out["other"] == 3
    assert label.tolist() == [[0, 1, 255, 255]]


def test_neighbouring_slices_become_channels_and_the_border_repeats():
    image = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)
    out = StackNeighboursd(keys="image", neighbours=1, dim=1)({"image": image})["image"]
    assert out.shape == (3, 2, 3, 4)
    assert torch.equal(out[1], image[0])
    assert torch.equal(out[0, :, 1:], image[0, :, :-1])
    assert torch.equal(out[0, :, 0], image[0, :, 0])
    assert torch.equal(out[2, :, 2], image[0, :, 2])
    assert torch.equal(StackNeighboursd(keys="image", neighbours=0)({"image": image})["image"], image)
    with pytest.raises(ValueError, match="neighbours=-1"):
        StackNeighboursd(keys="image", neighbours=-1)
