# SPDX-License-Identifier: Apache-2.0
"""Loss by output: terms, gradients, ignored voxels, wrong arguments; the overlays train the outputs in the real workflow."""

from __future__ import annotations

import json

import pytest
import test_resume
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from scripts.core.errors import InputError
from scripts.networks import MSFFNet
from scripts.networks.outputs import AUXILIARY, OUTPUTS
from scripts.training.ignore_index_loss import IgnoreIndexLoss
from scripts.training.output_loss import OutputLoss
from scripts.training.output_targets import BODY_PART, FRACTURED, IGNORED, INTACT, MAX_CODE, POSTERIOR, code_of, target_table
from test_resume import workflow
from torch import nn

SIZES = [(2, (40, 24)), (3, (24, 20, 16))]


def base_loss(ignore_index: int = IGNORED) -> IgnoreIndexLoss:
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    return IgnoreIndexLoss(loss, ignore_index=ignore_index, classes=2)


def network(spatial_dims: int = 2, auxiliary: tuple[str, ...] = AUXILIARY) -> MSFFNet:
    torch.manual_seed(0)
    return MSFFNet(
        spatial_dims=spatial_dims, features=(4, 4, 8, 8, 8), fusion_channels=8, aspp_rates=(1, 2), auxiliary_outputs=auxiliary
    )


def random_codes(*size: int) -> torch.Tensor:
    """All codes, ignored voxels included."""
    codes = torch.randint(0, MAX_CODE + 2, (2, 1, *size), generator=torch.Generator().manual_seed(0)).float()
    return torch.where(codes == MAX_CODE + 1, IGNORED, codes)


def target(output: str, codes: torch.Tensor) -> torch.Tensor:
    return target_table(output)[codes.long()].float()


@pytest.mark.parametrize("auxiliary", [AUXILIARY[:1], AUXILIARY])
@pytest.mark.parametrize(("spatial_dims", "size"), SIZES)
def test_each_term_trains_its_output_and_the_encoder(spatial_dims, size, auxiliary):
    net, codes = network(spatial_dims, auxiliary), random_codes(*size)
    prediction = net(torch.rand(2, 1, *size))
    prediction.retain_grad()
    OutputLoss(base_loss())(prediction, codes).backward()
    assert prediction.grad.abs().amax(dim=(0, *range(2, prediction.dim()))).min() > 0
    assert net.decoder.head.weight.grad.flatten(1).abs().sum(1).min() > 0
    assert net.encoder.blocks[0].conv_0.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("spatial_dims", "size"), SIZES)
def test_terms_are_the_losses_of_two_classes(spatial_dims, size):
    prediction, codes = torch.randn(2, 4, *size), random_codes(*size)
    loss = OutputLoss(base_loss(), weight=0.5, weights={"body": 2.0})
    terms = loss.terms(prediction, codes)
    assert list(terms) == list(OUTPUTS[1:])
    torch.testing.assert_close(terms["fracture"], base_loss()(prediction[:, :2], target("fracture", codes)))
    for channel, name in enumerate(AUXILIARY, 2):
        sigmoid = torch.sigmoid(prediction[:, channel : channel + 1])
        logits = torch.cat([1 - sigmoid, sigmoid], dim=1).log()  # a softmax of the logarithms of probabilities is these
        torch.testing.assert_close(terms[name], base_loss()(logits, target(name, codes)), rtol=1e-4, atol=1e-4)
    weighted = terms["fracture"] + 0.5 * terms["vertebra"] + 2.0 * terms["body"]
    torch.testing.assert_close(loss(prediction, codes), weighted)


@pytest.mark.parametrize(("spatial_dims", "size"), SIZES)
def test_each_output_ignores_exactly_its_ignored_voxels(spatial_dims, size):
    codes = random_codes(*size)
    for channel, name in enumerate(OUTPUTS[1:], 1):
        prediction = torch.randn(2, 4, *size, requires_grad=True)
        OutputLoss(base_loss()).terms(prediction, codes)[name].backward()
        used = target(name, codes)[:, 0] != IGNORED
        assert torch.equal(prediction.grad[:, channel] != 0, used)
        assert not prediction.grad[:, [c for c in range(1, 4) if c != channel]].any()


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8, torch.int64])
def test_codes_have_any_type(kind):
    prediction, codes = torch.randn(2, 4, 16, 16), random_codes(16, 16)
    loss = OutputLoss(base_loss())
    torch.testing.assert_close(loss(prediction, codes.to(kind)), loss(prediction, codes))


def test_every_output_converges():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    loss = OutputLoss(base_loss(), weight=1.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    # From left to right: background, posterior elements, body, fractured body, ignored; brightness is what separates them.
    codes = torch.tensor([0, code_of(INTACT, POSTERIOR), code_of(INTACT, BODY_PART), code_of(FRACTURED, BODY_PART), IGNORED])
    codes = codes.float().repeat_interleave(8).expand(2, 1, 16, 40)
    image = torch.tensor([0.0, 0.3, 0.6, 1.0, 0.6]).repeat_interleave(8).expand(2, 1, 16, 40)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(net(image), codes)
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.3 * values[0]
    out = net(image)
    decided = [out[:, 1] > out[:, 0], out[:, 2] > 0, out[:, 3] > 0]
    for mask, name in zip(decided, OUTPUTS[1:], strict=True):
        expected = target(name, codes)[:, 0]
        assert (mask == expected.bool())[expected != IGNORED].float().mean() > 0.9, name


@pytest.mark.parametrize("number", [3, 4])
def test_networks_of_the_comparison_have_the_outputs_too(number):
    net = BasicUNet(2, 1, number, features=(4, 4, 4, 4, 4, 4))
    OutputLoss(base_loss())(net(torch.rand(2, 1, 32, 32)), random_codes(32, 32)).backward()
    assert net.final_conv.weight.grad.flatten(1).abs().sum(1).min() > 0


@pytest.mark.parametrize("number", [1, 2, 5])
def test_networks_without_auxiliary_outputs_are_refused(number):
    message = rf"has {number} outputs, expected 3 to 4; set auxiliary_outputs to \[vertebra\] or more.*network_def::out_channels"
    with pytest.raises(InputError, match=message):
        OutputLoss(base_loss())(torch.zeros(1, number, 16, 16), torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 0}, "weight=0 of vertebra; must be greater than 0, or leave out configs/vertebra_loss.yaml"),
        ({"weights": {"body": -1}}, "weight=-1 of body; must be greater than 0"),
        ({"weights": {"disc": 1}}, "weights of 'disc'; must be of fracture, vertebra, body"),
        ({"weights": {"background": 1}}, "weights of 'background'"),
        ({"loss": base_loss(ignore_index=7)}, "ignore_index=7: must be 255 with configs/vertebra_loss.yaml"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        OutputLoss(**{"loss": base_loss(), **arguments})


@pytest.mark.parametrize(("overlays", "bodies"), [((), False), (("vertebrae.yaml",), True)])
def test_overlays_train_the_outputs(bundle, phantom_set, tmp_path, overlays, bodies):
    run = workflow(bundle, phantom_set, tmp_path / "run", ("vertebra_loss.yaml", *overlays))
    net = run.parser.get_parsed_content("network")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    run.run()
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert set(state) == set(before)
    assert len(state["decoder.head.bias"]) == 3 + bodies
    for row in range(2, 3 + bodies):
        assert not before["decoder.head.weight"][row].any()
        assert state["decoder.head.weight"][row].abs().sum() > 0
        assert state["decoder.head.bias"][row] != before["decoder.head.bias"][row]
        assert net.decoder.head.weight.grad[row].abs().sum() > 0
    codes = {int(v) for b in run.parser.get_parsed_content("train::dataloader") for v in b["label"].unique()}
    assert codes <= {0, *range(1, MAX_CODE + 1), IGNORED}
    assert bool(codes & {3, 4, 8}) == bodies  # of bodies
    assert {2, 4} & codes


def test_outputs_are_background_without_the_overlay(bundle, phantom_set, tmp_path):
    workflow(bundle, phantom_set, tmp_path / "run", ("vertebrae.yaml",)).run()
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert not state["decoder.head.weight"][2:].any()
    assert (state["decoder.head.bias"][2:] < 0).all()


def test_outputs_of_other_networks_are_trained_by_number(bundle, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr(test_resume, "TINY", {k: v for k, v in test_resume.TINY.items() if not k.startswith("network_def")})
    overlays = ("vertebra_loss.yaml", "vertebrae.yaml", "network/unet.yaml")
    small = {"network_def::out_channels": 4, "network_def::features": [4] * 6, "epochs": 1}
    run = workflow(bundle, phantom_set, tmp_path / "run", overlays, **small)
    before = run.parser.get_parsed_content("network").final_conv.weight.detach().clone()
    run.run()
    after = torch.load(tmp_path / "run" / "model.pt", weights_only=True)["final_conv.weight"]
    assert (after != before).flatten(1).any(1).tolist() == [True] * 4


def test_case_without_instances_is_one_line(bundle, phantom_set, tmp_path):
    datalist = json.loads((phantom_set / "datalist.json").read_text())
    for case in (c for cases in datalist.values() if isinstance(cases, list) for c in cases):
        case.pop("vertebrae", None)
        for key in ("image", "label"):
            case[key] = str(phantom_set / case[key])
    changed = tmp_path / "datalist.json"
    changed.write_text(json.dumps(datalist))
    for overlays in ((), ("vertebrae.yaml",)):
        run = workflow(bundle, phantom_set, tmp_path / "run", ("vertebra_loss.yaml", *overlays), datalist=str(changed))
        with pytest.raises(
            InputError, match=r"has no `vertebrae` \(2 of 2 training cases\); add it to .*datalist\.json, or leave"
        ) as e:
            run.run()
        assert "\n" not in str(e.value)
