# SPDX-License-Identifier: Apache-2.0
"""The second task of training: what it is given, what it teaches, and that it leaves nothing in the weights."""

from __future__ import annotations

import json

import pytest
import torch
from monai.losses import DiceCELoss
from scripts.errors import InputError
from scripts.networks import MSFFNet
from scripts.training import vertebra_loss
from scripts.training.loss import IgnoringLoss
from scripts.training.vertebra_loss import MarkIntactd, VertebraLoss
from test_resume import workflow


def base_loss() -> IgnoringLoss:
    return IgnoringLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True))


def network(spatial_dims: int = 2) -> MSFFNet:
    torch.manual_seed(0)
    return MSFFNet(spatial_dims=spatial_dims, features=(4, 4, 8, 8, 8), fusion_channels=8, aspp_rates=(1, 2))


def test_intact_vertebrae_are_marked_and_nothing_else_changes():
    label = torch.tensor([[0, 0, 1, 255, 0, 0]]).reshape(1, 6, 1, 1).float()
    bone = torch.tensor([[0, 20, 21, 22, 26, 8]]).reshape(1, 6, 1, 1).float()
    marked = MarkIntactd("label")({"label": label, "vertebrae": bone})["label"]
    assert marked.flatten().tolist() == [0, 2, 1, 255, 0, 2]
    with pytest.raises(ValueError, match=r"names no `vertebrae`.*leave configs/vertebra_loss\.yaml out"):
        MarkIntactd("label")({"label": label})
    with pytest.raises(ValueError, match=r"shape \(5, 1, 1\) and `label` \(6, 1, 1\); resample"):
        MarkIntactd("label")({"label": label, "vertebrae": bone[:, 1:]})


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (40, 24)), (3, (24, 20, 16))])
def test_gradients_reach_the_head_and_the_network_in_training_and_the_head_is_silent_in_evaluation(spatial_dims, size):
    net = network(spatial_dims)
    loss = VertebraLoss(base_loss(), net)
    image = torch.rand(2, 1, *size)
    target = torch.randint(0, 3, (2, 1, *size)).float()
    total = loss(net(image), target)
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())
    assert net.encoder.blocks[0].conv_0.conv.weight.grad.abs().sum() > 0
    net.eval()
    with torch.no_grad():
        prediction = net(image)
        only = loss(prediction, target)
    assert only == base_loss()(prediction, torch.where(target == 2, 0, target))
    assert not any("vertebra" in key for key in net.state_dict())
    assert {p.shape for p in loss.parameters()} == {(2, 4, *[1] * spatial_dims), (2,)}


def test_unknown_voxels_teach_neither_task():
    net = network()
    loss = VertebraLoss(base_loss(), net)
    net(torch.rand(2, 1, 32, 32))
    features = loss.features.detach().requires_grad_()
    loss.features = features
    prediction = torch.zeros(2, 2, 32, 32, requires_grad=True)
    target = torch.full((2, 1, 32, 32), 2.0)
    target[..., :16] = 255
    loss(prediction, target).backward()
    for gradient in (prediction.grad, features.grad):
        assert gradient[..., :16].abs().sum() == 0
        assert gradient[..., 16:].abs().sum() > 0


def test_the_second_task_learns_what_a_vertebra_is():
    net = network()
    loss = VertebraLoss(base_loss(), net, weight=1.0)
    optimizer = torch.optim.Adam([*net.parameters(), *loss.parameters()], lr=0.01)
    image = torch.zeros(2, 1, 32, 32)
    image[:, :, 8:24, 8:24] = 1
    target = 2 * image
    before = None
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(net(image), target)
        before = before or float(value)
        value.backward()
        optimizer.step()
    net(image)
    seen = loss.head(loss.features).argmax(1, keepdim=True)
    assert float(value) < 0.7 * before
    assert (seen == image).float().mean() > 0.95


def test_a_network_without_such_a_layer_and_several_processes_are_refused(monkeypatch):
    with pytest.raises(InputError, match="layer='head': the network has no such convolution"):
        VertebraLoss(base_loss(), network(), layer="head")
    monkeypatch.setattr(vertebra_loss, "world_size", lambda: 2)
    with pytest.raises(InputError, match="is for one process"):
        VertebraLoss(base_loss(), network())


def test_the_overlay_trains_through_the_bundle_and_leaves_plain_weights(bundle, phantom_set, tmp_path):
    run = workflow(bundle, phantom_set, tmp_path / "run", ("vertebra_loss.yaml",))
    run.run()
    parser = run.parser
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert set(state) == set(parser.get_parsed_content("network").state_dict())
    batch = next(iter(parser.get_parsed_content("train::dataloader")))
    assert set(batch["label"].unique().tolist()) == {0.0, 1.0, 2.0}
    head = parser.get_parsed_content("vertebra_loss").head
    held = {id(p) for group in parser.get_parsed_content("optimizer").param_groups for p in group["params"]}
    assert {id(p) for p in head.parameters()} <= held


def test_a_case_without_instances_is_named(bundle, phantom_set, tmp_path):
    datalist = json.loads((phantom_set / "datalist.json").read_text())
    for case in (c for cases in datalist.values() if isinstance(cases, list) for c in cases):
        case.pop("vertebrae", None)
        for key in ("image", "label"):
            case[key] = str(phantom_set / case[key])
    changed = tmp_path / "datalist.json"
    changed.write_text(json.dumps(datalist))
    run = workflow(bundle, phantom_set, tmp_path / "run", ("vertebra_loss.yaml",), datalist=str(changed))
    with pytest.raises(
        InputError, match=r"names no `vertebrae` \(2 of 2 training cases\); add it to .*datalist\.json, or leave"
    ):
        run.run()
