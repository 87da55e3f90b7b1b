# SPDX-License-Identifier: Apache-2.0
"""Weights of narrower networks start wider ones with equal output."""

from __future__ import annotations

import pytest
import torch
from scripts.core.errors import InputError
from scripts.networks import MSFFNet
from scripts.networks.outputs import AUXILIARY
from scripts.networks.weights_description import with_description
from scripts.training.describe_run import describe_config
from scripts.training.describe_weights import training_config
from scripts.training.described_config import DescribedConfig, common_description, read_base
from scripts.training.weights import load_weights
from torch import nn

SMALL = {"features": (4, 4, 8, 8, 8), "fusion_channels": 8, "aspp_rates": (1, 2)}


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))


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


def trained(spatial_dims: int = 2, auxiliary: tuple[str, ...] = AUXILIARY, **arguments: object) -> MSFFNet:
    """Network with random weights and running statistics, as after a training."""
    torch.manual_seed(0)
    net = MSFFNet(spatial_dims=spatial_dims, auxiliary_outputs=auxiliary, **{**SMALL, **arguments})
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value) / 3)
    return net.eval()


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("strides", [(2, 2, 1), (2, 1, 1), (1, 1, 1)])  # the shortcut joins after both decoders, after one, before
def test_wider_last_layers_have_equal_output(tmp_path, spatial_dims, strides):
    wiring = {"encoder_strides": strides, "fusion_stride": {4: 2, 2: 4, 1: 8}[strides[0] * strides[1]], "transposed_stride": 2}
    source, wide = trained(spatial_dims, **wiring), trained(spatial_dims, decoder_channels=12, **wiring)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="another network"):
        load_weights(wide, str(tmp_path / "w.pt"))
    load_weights(wide, str(tmp_path / "w.pt"), widen=True)
    image = torch.rand(1, 1, *[32] * spatial_dims)
    torch.testing.assert_close(wide(image), source(image))


def test_new_channels_of_last_layers_learn_and_differ(tmp_path):
    source, wide = trained(), trained(decoder_channels=12)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(wide, str(tmp_path / "w.pt"), widen=True).train()
    wide(torch.rand(4, 1, 32, 32)).square().sum().backward()
    gradient = wide.decoder.head.weight.grad[:, SMALL["features"][0] :].flatten(1)
    assert (gradient != 0).all()
    assert len(gradient[0].unique()) == gradient.shape[1]


def test_wider_last_layers_with_more_outputs_and_inputs(tmp_path):
    source, wide = trained(auxiliary=()), trained(in_channels=3, decoder_channels=8)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(wide, str(tmp_path / "w.pt"), widen=True)
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(wide(image)[:, :2], source(image[:, 1:2]))


def test_narrower_last_layers_are_refused(tmp_path):
    torch.save(trained(decoder_channels=12).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt: belongs to another network: decoder\."):
        load_weights(trained(), str(tmp_path / "w.pt"), widen=True)


def test_fine_tuning_may_widen_described_weights(tmp_path):
    file = str(tmp_path / "model.pt")
    content = training_config(["vertebrae.yaml"], {"network_def::features": [4, 4, 8, 8, 8], "device": "cpu"})
    narrow = MSFFNet(in_channels=5, auxiliary_outputs=AUXILIARY, features=(4, 4, 8, 8, 8))
    torch.save(with_description(narrow.state_dict(), describe_config(content).text()), file)
    config = training_config(["finetune.yaml"], {"network_def::decoder_channels": 12, "init_checkpoint": file})
    described, base = common_description(file), read_base(["train.yaml", "finetune.yaml"])
    merged = DescribedConfig(config, base, kind="training", training=True).merge(*described)
    assert merged["network_def"]["decoder_channels"] == 12
    assert merged["network_def"]["features"] == [4, 4, 8, 8, 8]
    with pytest.raises(InputError, match=r"decoder_channels=12: .* was trained with None"):
        DescribedConfig(config, base, kind="training").merge(*described)
