# SPDX-License-Identifier: Apache-2.0
"""Weights saved under former names of submodules load into networks of this version."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from conftest import scripted
from scripts.networks import MSFFNet
from scripts.networks.baselines import SpineGANDiscriminator
from scripts.networks.ensemble import MeanEnsemble
from scripts.networks.renamed_weights import with_present_names
from scripts.training.weights import load_weights
from torch import nn

FORMER = {".out_proj.": ".answer.", "classifier.": "judge."}


def msffnet() -> MSFFNet:
    return MSFFNet(features=(4, 4, 8, 8, 8), fusion_channels=8, attention_tokens=2)


def discriminator() -> SpineGANDiscriminator:
    return SpineGANDiscriminator(features=(4, 6), hidden=5)


def saved_before(network: nn.Module) -> dict[str, torch.Tensor]:
    """State dict of a network as an earlier version saved it."""
    state = {}
    for key, value in network.state_dict().items():
        former = key
        for present, name in FORMER.items():
            former = former.replace(present, name)
        state[former] = torch.rand_like(value) if value.is_floating_point() else value
    return state


@pytest.mark.parametrize(("build", "renamed"), [(msffnet, 2), (discriminator, 4), (lambda: MeanEnsemble(msffnet(), members=2), 4)])
def test_former_names_load_strictly(build, renamed):
    network = build()
    state = saved_before(network)
    assert len(set(state) - set(network.state_dict())) == renamed
    keys = list(state)
    for loaded in (network, deepcopy(network)):
        loaded.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), state.values(), strict=True))
    assert list(state) == keys
    assert set(with_present_names(network, state)) == set(network.state_dict())


def test_present_names_and_other_networks_are_unchanged():
    network, state = msffnet(), {"answer.weight": torch.zeros(1)}
    network.load_state_dict(network.state_dict())
    assert with_present_names(network, state) == state
    with pytest.raises(RuntimeError, match=r"Unexpected key.*answer\.weight"):
        network.load_state_dict({**network.state_dict(), **state})


def test_load_weights_accepts_former_names_before_its_checks(tmp_path):
    network = msffnet()
    state = saved_before(network)
    torch.save(state, tmp_path / "model.pt")
    load_weights(network, str(tmp_path / "model.pt"), exact=True)
    assert torch.equal(network.rbrab.attention.out_proj.weight, state["rbrab.attention.answer.weight"])


def test_renamed_submodules_compile_to_torchscript():
    model, x = discriminator().eval(), torch.rand(1, 2, 40, 24)
    torch.testing.assert_close(scripted(model)(x), model(x))
