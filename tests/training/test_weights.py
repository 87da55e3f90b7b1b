# SPDX-License-Identifier: Apache-2.0
"""Strict loading of weights; one line for every failure."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from scripts.core.errors import InputError
from scripts.networks import MSFFNet
from scripts.networks.outputs import AUXILIARY, UNTRAINED_LOGIT
from scripts.training.checkpoint_shape import auxiliary_outputs_of, decoder_channels_of, neighbours_of
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


SMALL = {"features": (4, 4, 8, 8, 8), "fusion_channels": 8, "aspp_rates": (1, 2)}


@pytest.mark.parametrize("stored", [2, 3, 4])
@pytest.mark.parametrize("required", [2, 3, 4])
def test_missing_or_extra_outputs_keep_those_in_common(tmp_path, stored, required):
    torch.manual_seed(0)
    source = MSFFNet(**SMALL, auxiliary_outputs=AUXILIARY[: stored - 2]).eval()
    torch.nn.init.normal_(source.decoder.head.weight)
    target = MSFFNet(**SMALL, auxiliary_outputs=AUXILIARY[: required - 2]).eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    if stored != required:
        with pytest.raises(InputError, match="another network"):
            load_weights(target, str(tmp_path / "w.pt"), exact=True)
    load_weights(target, str(tmp_path / "w.pt"))
    image, common = torch.rand(2, 1, 32, 32), min(stored, required)
    torch.testing.assert_close(target(image)[:, :common], source(image)[:, :common])
    assert (target(image)[:, common:] == UNTRAINED_LOGIT).all()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_auxiliary_outputs_are_those_of_the_checkpoint(tmp_path, number):
    state, names = MSFFNet(**SMALL, auxiliary_outputs=AUXILIARY[:number]).state_dict(), list(AUXILIARY[:number])
    for content, name in ((state, "a.pt"), ({"model": state}, "b.PT")):
        torch.save(content, tmp_path / name)
        assert auxiliary_outputs_of(str(tmp_path / name)) == names
    path = str(tmp_path / "a.pt")
    for ensemble in ([path, "gone.pt"], {"sagittal": path, "axial": "gone.pt"}, {"sagittal": [path, "gone.pt"]}):
        assert auxiliary_outputs_of(ensemble) == names


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("width", [None, 12])
def test_last_layers_are_those_of_the_checkpoint(tmp_path, spatial_dims, width):
    net = MSFFNet(spatial_dims=spatial_dims, **SMALL, decoder_channels=width)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    expected = width or SMALL["features"][0]
    assert decoder_channels_of(str(tmp_path / "w.pt")) == decoder_channels_of([str(tmp_path / "w.pt"), "gone.pt"]) == expected
    load_weights(MSFFNet(spatial_dims=spatial_dims, **SMALL, decoder_channels=expected), str(tmp_path / "w.pt"), exact=True)
    torch.save(BasicUNet(spatial_dims=2, features=(4, 4, 4, 4, 4, 4)).state_dict(), tmp_path / "unet.pt")
    torch.save({"decoder.head.weight": torch.zeros(4, 0, 1, 1)}, tmp_path / "damaged.pt")
    for other in ("unet.pt", "gone.pt", "damaged.pt"):
        assert decoder_channels_of(str(tmp_path / other)) is None


@pytest.mark.parametrize("content", [None, b"no archive", {"other.weight": torch.zeros(3)}, [1]])
def test_other_checkpoints_have_all_auxiliary_outputs(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "w.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "w.pt")
    assert auxiliary_outputs_of(tmp_path / "w.pt") == auxiliary_outputs_of(tmp_path / "net.onnx") == list(AUXILIARY)
    assert auxiliary_outputs_of([]) == auxiliary_outputs_of({}) == list(AUXILIARY)


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_neighbours_are_those_of_the_checkpoint(tmp_path, neighbours):
    network = MSFFNet(**{**SMALL, "in_channels": 2 * neighbours + 1}).eval()
    path = str(tmp_path / "a.pt")
    torch.save({"model": network.state_dict()}, path)
    assert neighbours_of(path) == neighbours_of({"sagittal": [path, "gone.pt"]}) == neighbours
    traced = torch.jit.trace(network, torch.rand(1, 2 * neighbours + 1, 32, 32), check_trace=False)
    torch.jit.save(traced, str(tmp_path / "a.ts"))
    assert neighbours_of(tmp_path / "a.ts") == neighbours
    (tmp_path / "a.xml").write_text(
        f'<net><layers><layer type="Parameter"><data shape="?,{2 * neighbours + 1},?,?"/></layer></layers></net>'
    )
    assert neighbours_of(tmp_path / "a.xml") == neighbours


@pytest.mark.parametrize("name", ["a.pt", "a.ts", "a.xml", "a.onnx", "gone.pt"])
def test_unreadable_checkpoints_have_no_neighbours(tmp_path, name):
    if not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"nothing")
    assert neighbours_of(tmp_path / name) == 0


def test_outputs_of_other_networks_are_matched_too(tmp_path):
    """The networks of the comparison have no auxiliary outputs by name, only a number of channels."""
    stored, target = (BasicUNet(2, 1, n, features=(4, 4, 4, 4, 4, 4)).eval() for n in (2, 4))
    torch.save(stored.state_dict(), tmp_path / "w.pt")
    load_weights(target, str(tmp_path / "w.pt"))
    image = torch.rand(1, 1, 32, 32)
    out = target(image)
    torch.testing.assert_close(out[:, :2], stored(image))
    assert (out[:, 2:] == UNTRAINED_LOGIT).all()


@pytest.mark.parametrize("number", [1, 5])
def test_numbers_without_names_are_another_network(tmp_path, number):
    torch.save(nn.Sequential(nn.Conv2d(1, number, 1)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"0\.weight has shape \({number}, 1, 1, 1\), network_def expects \(3, 1, 1, 1\)"):
        load_weights(nn.Sequential(nn.Conv2d(1, 3, 1)), str(tmp_path / "w.pt"))
