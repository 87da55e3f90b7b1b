# SPDX-License-Identifier: Apache-2.0
"""Ignored voxels change neither the value nor the gradient of the loss."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss
from scripts.training.ignore_index_loss import IgnoreIndexLoss


def loss() -> IgnoreIndexLoss:
    return IgnoreIndexLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True))


@pytest.mark.parametrize("size", [(8, 8), (4, 8, 8)])
def test_only_valid_voxels_have_a_gradient(size):
    torch.manual_seed(0)
    logits = torch.randn(2, 2, *size, requires_grad=True)
    target = (torch.rand(2, 1, *size) > 0.5).float()
    target[..., :3] = 255
    loss()(logits, target).backward()
    assert logits.grad[..., :3].abs().max() == 0
    assert logits.grad[..., 3:].abs().min() > 0


def test_loss_is_independent_of_ignored_voxels():
    torch.manual_seed(0)
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    target[..., :3] = 255
    first = torch.randn(2, 2, 8, 8)
    second = first.clone()
    second[..., :3] = torch.randn(2, 2, 8, 3) * 5
    torch.testing.assert_close(loss()(first, target), loss()(second, target))


def test_loss_without_ignored_voxels_is_unchanged():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    torch.testing.assert_close(loss()(logits, target), loss().loss(logits, target))
