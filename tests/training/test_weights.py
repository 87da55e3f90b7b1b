# SPDX-License-Identifier: Apache-2.0
"""Strict loading of weights; one line for every failure."""

from __future__ import annotations

import pytest
import torch
from scripts.core.errors import InputError
from scripts.networks import MSFFNet
from scripts.training.weights import load_weights
from torch import nn


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))


@pytest.mark.parametrize("nested", [False, True])
def test_flat_and_nested_checkpoints_load(tmp_path, nested):
    source, target = network(), network()
    state = source.state_dict()
    torch.save({"model": state} if nested else state, tmp_path / "w.pt")
    load_weights(target, str(tmp_path / "w.pt"))
    torch.testing.assert_close(target.state_dict(), source.state_dict())


def test_network_is_unchanged_without_a_path():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert load_weights(model, None) is model
    torch.testing.assert_close(dict(model.state_dict()), before)


def test_every_failure_names_the_file(tmp_path):
    torch.save(network(5).state_dict(), tmp_path / "wide.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "short.pt").write_bytes((tmp_path / "wide.pt").read_bytes()[:200])
    for name, words in [
        ("wide.pt", "another network"),
        ("other.pt", "lacks"),
        ("list.pt", "no flat state dict"),
        ("short.pt", "truncated"),
        ("none.pt", "no such checkpoint"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            load_weights(network(), str(tmp_path / name))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_fewer_input_channels_become_the_middle_ones(tmp_path):
    source = network().eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    wider = nn.Sequential(nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3)).eval()
    with pytest.raises(InputError, match=r"shape \(3, 1, 1, 1\), network_def expects \(3, 5, 1, 1\)"):
        load_weights(wider, str(tmp_path / "w.pt"))
    load_weights(wider, str(tmp_path / "w.pt"), widen=True)
    batch = torch.rand(2, 5, 8, 8)
    torch.testing.assert_close(wider(batch), source(batch[:, 2:3]))
    for shape in ((2, 3), (5, 4)):  # an even number has no middle channel; another width is another network
        other = nn.Sequential(nn.Conv2d(shape[0], shape[1], 1), nn.BatchNorm2d(shape[1]))
        with pytest.raises(InputError, match="another network"):
            load_weights(other, str(tmp_path / "w.pt"), widen=True)
    torch.save(wider.state_dict(), tmp_path / "wide.pt")
    with pytest.raises(InputError, match="another network"):
        load_weights(network(), str(tmp_path / "wide.pt"), widen=True)


@pytest.mark.parametrize("has", [True, False])
def test_missing_or_extra_vertebra_output_keeps_fracture(tmp_path, has):
    torch.manual_seed(0)
    small = {"features": (4, 4, 8, 8, 8), "fusion_channels": 8, "aspp_rates": (1, 2)}
    source = MSFFNet(**small, vertebra_output=has).eval()
    torch.nn.init.normal_(source.decoder.head.weight)
    target = MSFFNet(**small, vertebra_output=not has).eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="another network"):
        load_weights(target, str(tmp_path / "w.pt"), exact=True)
    load_weights(target, str(tmp_path / "w.pt"))
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(target(image)[:, :2], source(image)[:, :2])
    if not has:
        assert (target(image)[:, 2] < 0).all()
