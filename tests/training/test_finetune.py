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
    with pytest.raises(InputError, match=r"output=2: decoder\.head has 2 outputs; set network_def::vertebra_output to true"):
        only_output(network())


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


def test_vertebra_output_is_trained_without_changing_fracture(bundle, phantom_set, tmp_path):
    old = workflow(bundle, phantom_set, tmp_path / "old", **{"network_def::vertebra_output": False})
    old.run()
    before = torch.load(tmp_path / "old" / "model.pt", weights_only=True)
    start = str(tmp_path / "old" / "model.pt")
    workflow(bundle, phantom_set, tmp_path / "new", ("vertebra_loss.yaml", "vertebra_output.yaml"), init_checkpoint=start).run()
    after = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    assert set(before) == set(after)
    for key, value in before.items():
        assert torch.equal(after[key][: len(value)] if value.dim() else after[key], value), key
    assert after["decoder.head.weight"][2].abs().sum() > 0
