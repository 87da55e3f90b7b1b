# SPDX-License-Identifier: Apache-2.0
"""Auxiliary task of training: labels, loss, gradients of the third output."""

from __future__ import annotations

import json

import pytest
import torch
from monai.losses import DiceCELoss
from scripts.core.errors import InputError
from scripts.networks import MSFFNet
from scripts.training.ignore_index_loss import IgnoreIndexLoss
from scripts.training.vertebra_loss import RelabelIntactd, VertebraLoss
from test_resume import workflow


def base_loss() -> IgnoreIndexLoss:
    return IgnoreIndexLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True), classes=2)


def network(spatial_dims: int = 2) -> MSFFNet:
    torch.manual_seed(0)
    return MSFFNet(spatial_dims=spatial_dims, features=(4, 4, 8, 8, 8), fusion_channels=8, aspp_rates=(1, 2), vertebra_output=True)


def test_only_intact_vertebrae_are_relabelled():
    label = torch.tensor([[0, 0, 1, 255, 0, 0]]).reshape(1, 6, 1, 1).float()
    vertebrae = torch.tensor([[0, 20, 21, 22, 26, 8]]).reshape(1, 6, 1, 1).float()
    relabelled = RelabelIntactd("label")({"label": label, "vertebrae": vertebrae})["label"]
    assert relabelled.flatten().tolist() == [0, 2, 1, 255, 0, 2]
    with pytest.raises(ValueError, match=r"has no `vertebrae`.*leave out configs/vertebra_loss\.yaml"):
        RelabelIntactd("label")({"label": label})
    with pytest.raises(ValueError, match=r"shape \(5, 1, 1\), expected \(6, 1, 1\), that of `label`; resample"):
        RelabelIntactd("label")({"label": label, "vertebrae": vertebrae[:, 1:]})


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (40, 24)), (3, (24, 20, 16))])
def test_each_task_trains_its_output_and_the_encoder(spatial_dims, size):
    net = network(spatial_dims)
    image = torch.rand(2, 1, *size)
    target = torch.randint(0, 3, (2, 1, *size)).float()
    prediction = net(image)
    prediction.retain_grad()
    total = VertebraLoss(base_loss())(prediction, target)
    total.backward()
    assert prediction.grad.abs().amax(dim=(0, *range(2, prediction.dim()))).min() > 0
    assert net.encoder.blocks[0].conv_0.conv.weight.grad.abs().sum() > 0
    fracture = base_loss()(prediction[:, :2], torch.where(target == 2, 0, target))
    two = torch.cat([torch.zeros_like(prediction[:, 2:]), prediction[:, 2:]], dim=1)
    torch.testing.assert_close(total, fracture + 0.5 * base_loss()(two, (target > 0).float()))


def test_ignored_voxels_have_no_gradient_in_both_tasks():
    prediction = torch.zeros(2, 3, 32, 32, requires_grad=True)
    target = torch.full((2, 1, 32, 32), 2.0)
    target[..., :16] = 255
    VertebraLoss(base_loss())(prediction, target).backward()
    assert prediction.grad[..., :16].abs().sum() == 0
    assert prediction.grad[:, 2, :, 16:].abs().min() > 0


def test_auxiliary_task_converges():
    net = network()
    loss = VertebraLoss(base_loss(), weight=1.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    image = torch.zeros(2, 1, 32, 32)
    image[:, :, 8:24, 8:24] = 1
    target = 2 * image
    assert not (net(image)[:, 2] > 0).any()
    before = None
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(net(image), target)
        before = before or float(value)
        value.backward()
        optimizer.step()
    assert float(value) < 0.7 * before
    assert ((net(image)[:, 2:] > 0) == image.bool()).float().mean() > 0.95


def test_missing_third_output_and_zero_weight_are_refused():
    with pytest.raises(InputError, match="has 2 outputs, expected 3; set network_def::vertebra_output to true"):
        VertebraLoss(base_loss())(torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 16, 16))
    with pytest.raises(InputError, match=r"weight=0; must be greater than 0, or leave"):
        VertebraLoss(base_loss(), weight=0)


def test_overlay_trains_the_third_output(bundle, phantom_set, tmp_path):
    run = workflow(bundle, phantom_set, tmp_path / "run", ("vertebra_loss.yaml",))
    run.run()
    parser = run.parser
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert set(state) == set(parser.get_parsed_content("network").state_dict())
    batch = next(iter(parser.get_parsed_content("train::dataloader")))
    assert set(batch["label"].unique().tolist()) == {0.0, 1.0, 2.0}
    assert state["decoder.head.weight"][2].abs().sum() > 0


def test_third_output_is_background_without_the_overlay(bundle, phantom_set, tmp_path):
    workflow(bundle, phantom_set, tmp_path / "run").run()
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert state["decoder.head.weight"][2].abs().sum() == 0
    assert state["decoder.head.bias"][2] < 0


def test_case_without_instances_is_one_line(bundle, phantom_set, tmp_path):
    datalist = json.loads((phantom_set / "datalist.json").read_text())
    for case in (c for cases in datalist.values() if isinstance(cases, list) for c in cases):
        case.pop("vertebrae", None)
        for key in ("image", "label"):
            case[key] = str(phantom_set / case[key])
    changed = tmp_path / "datalist.json"
    changed.write_text(json.dumps(datalist))
    run = workflow(bundle, phantom_set, tmp_path / "run", ("vertebra_loss.yaml",), datalist=str(changed))
    with pytest.raises(InputError, match=r"has no `vertebrae` \(2 of 2 training cases\); add it to .*datalist\.json, or leave"):
        run.run()
