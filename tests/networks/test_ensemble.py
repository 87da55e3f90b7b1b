# SPDX-License-Identifier: Apache-2.0
"""Mean ensemble: softmax, argmax and sigmoid of its logits are those of the mean probabilities."""

from __future__ import annotations

import pytest
import torch
from conftest import scripted
from scripts.networks.ensemble import MeanEnsemble
from scripts.networks.outputs import NUM_CLASSES
from torch import nn


def ensemble(channels: int, conv: type = nn.Conv2d, members: int = 3) -> MeanEnsemble:
    torch.manual_seed(0)
    module = MeanEnsemble(conv(1, channels, kernel_size=1), members=members)
    for member in module.members:
        nn.init.normal_(member.weight)
    return module


@pytest.mark.parametrize(("conv", "size"), [(nn.Conv2d, (6, 5)), (nn.Conv3d, (6, 5, 4))])
@pytest.mark.parametrize("channels", [NUM_CLASSES, NUM_CLASSES + 1])
def test_probabilities_are_the_means_of_the_members(channels, conv, size):
    module, x = ensemble(channels, conv), torch.randn(2, 1, *size)
    out = module(x)
    assert out.shape == (2, channels, *size)
    logits = torch.stack([member(x) for member in module.members])
    softmax = torch.softmax(logits[:, :, :NUM_CLASSES], dim=2).mean(0)
    torch.testing.assert_close(torch.softmax(out[:, :NUM_CLASSES], dim=1), softmax)
    assert torch.equal(out[:, :NUM_CLASSES].argmax(1), softmax.argmax(1))
    torch.testing.assert_close(torch.sigmoid(out[:, NUM_CLASSES:]), torch.sigmoid(logits[:, :, NUM_CLASSES:]).mean(0))
    torch.testing.assert_close(scripted(module)(x), out)


def test_gradients_reach_every_member():
    module = ensemble(NUM_CLASSES + 1)
    module(torch.rand(1, 1, 4, 4))[:, 1:].sum().backward()
    assert all(member.weight.grad.abs().sum() > 0 for member in module.members)


def test_bad_argument_error_has_value_and_remedy():
    with pytest.raises(ValueError, match="members=0; must be 1 or more"):
        ensemble(2, members=0)
