# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: initial weights are not overwritten, frozen parts stay bitwise the same; bfloat16 on a CPU."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from scripts.core.errors import InputError
from scripts.networks import MSFFNet
from scripts.training.freeze import only_output, trainable
from scripts.training.precision import CpuBfloat16, low_precision
from test_resume import workflow


def network(**arguments) -> MSFFNet:
    torch.manual_seed(0)
    return MSFFNet(spatial_dims=2, features=(4, 4, 8, 8, 8), fusion_channels=8, aspp_rates=(1, 2), **arguments)


def test_frozen_parts_keep_weights_and_statistics():
    net = network(dropout=0.2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD(trainable(net, ["encoder"]), lr=0.1)
    for _ in range(2):
        net.train()
        optimizer.zero_grad()
        net(torch.rand(2, 1, 32, 32)).square().mean().backward()
        optimizer.step()
    changed = {k.split(".")[0] for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert "encoder" not in changed
    assert {"ffm", "decoder"} <= changed
    assert len(trainable(network())) == len(list(network().parameters()))


def test_unknown_parts_are_refused():
    with pytest.raises(InputError, match="frozen='encoders': the network has no such part; its parts are encoder"):
        trainable(network(), ["encoders"])
    small = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="no parameter is left"):
        trainable(small, ["0"])
    with pytest.raises(InputError, match="layer='head': the network has no such convolution"):
        only_output(network(), layer="head")
    with pytest.raises(InputError, match=r"output=vertebra: decoder\.head has 2 outputs; add it to network_def::auxiliary_outputs"):
        only_output(network())
    with pytest.raises(InputError, match="output=-1: decoder"):
        only_output(network(), output=-1)
    with pytest.raises(InputError, match="output='disc': must be one of background, fracture, vertebra, body"):
        only_output(network(), output="disc")


@pytest.mark.parametrize(("output", "row"), [("fracture", 1), ("vertebra", 2), ("body", 3), (3, 3)])
def test_only_the_named_output_receives_gradients(output, row):
    net = network(auxiliary_outputs=["vertebra", "body"])
    only_output(net, output=output)
    net(torch.rand(2, 1, 32, 32)).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["decoder.head.weight", "decoder.head.bias"]
    assert torch.nonzero(net.decoder.head.weight.grad.flatten(1).abs().sum(1)).flatten().tolist() == [row]
    assert torch.nonzero(net.decoder.head.bias.grad).flatten().tolist() == [row]


def test_cpu_bfloat16_has_float32_gradients():
    net, image = network(), torch.rand(2, 1, 48, 48)
    wrapped = CpuBfloat16(net)
    exact, rough = net(image), wrapped(image)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean() + 0.02
    rough.square().mean().backward()
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}
    with pytest.raises(ValueError, match="on meta; set amp"):
        CpuBfloat16(torch.nn.Linear(2, 2, device="meta"))


def test_bfloat16_is_chosen_for_cpus_with_amx(monkeypatch):
    net, other = network(), torch.nn.Linear(2, 2, device="meta")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert low_precision(net).network is net
    assert low_precision(other) is other
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    for name in ("avx512_bf16", "avx2"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True}, raising=False)
        assert low_precision(net) is net
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert low_precision(net) is net


def test_finetune_config_keeps_the_initial_weights(bundle, phantom_set, tmp_path):
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f) for f in ("train.yaml", "finetune.yaml")])
    assert parser["learning_rate"] < 0.001
    parser["bundle_root"] = str(bundle)
    assert parser.get_parsed_content("ckpt_dir") != str(bundle / "models")
    start = tmp_path / "start.pt"
    base = workflow(bundle, phantom_set, tmp_path / "base")
    torch.save(base.parser.get_parsed_content("network_def").state_dict(), start)
    content = start.read_bytes()
    run = workflow(bundle, phantom_set, tmp_path / "run", ("finetune.yaml",), init_checkpoint=str(start), frozen=["encoder"])
    run.run()
    assert start.read_bytes() == content
    first = torch.load(start, weights_only=True)
    last = torch.load(tmp_path / "run" / "kept" / "last.pt", weights_only=True)
    changed = {k.split(".")[0] for k in first if not torch.equal(first[k], last[k])}
    assert "encoder" not in changed
    assert "decoder" in changed
    assert (tmp_path / "run" / "model.pt").is_file()


def test_an_output_is_added_without_changing_the_others(bundle, phantom_set, tmp_path):
    """Body after vertebra after the outputs of the paper, by the option of version 0.6 for none."""
    workflow(bundle, phantom_set, tmp_path / "2", **{"network_def::vertebra_output": False}).run()
    for number, overlay in ((2, "vertebra_output.yaml"), (3, "body_output.yaml")):
        start, out = tmp_path / str(number) / "model.pt", tmp_path / str(number + 1)
        workflow(bundle, phantom_set, out, ("vertebra_loss.yaml", overlay), init_checkpoint=str(start)).run()
        before, after = (torch.load(f, weights_only=True) for f in (start, out / "model.pt"))
        assert set(before) == set(after)
        assert len(before["decoder.head.bias"]) == number
        assert len(after["decoder.head.bias"]) == number + 1
        for key, value in before.items():
            assert torch.equal(after[key][: len(value)] if value.dim() else after[key], value), key
        assert after["decoder.head.weight"][number].abs().sum() > 0
