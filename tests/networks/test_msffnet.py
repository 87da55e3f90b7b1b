# SPDX-License-Identifier: Apache-2.0
"""MSFFNet: any size, 2D and 3D, every switch, export, gradients, bad arguments."""

from __future__ import annotations

import pytest
import torch
from conftest import scripted
from scripts.networks import MSFFNet
from scripts.networks.outputs import AUXILIARY, NUM_CLASSES, UNTRAINED_LOGIT

FEATURES = (4, 8, 8, 12, 16)
SWITCHES = ("use_ffm", "use_sem", "use_aspp", "use_rcbam", "use_rbrab", "use_lprab")


def net(spatial_dims: int = 2, **kwargs) -> MSFFNet:
    torch.manual_seed(0)
    return MSFFNet(**{"spatial_dims": spatial_dims, "features": FEATURES, "attention_tokens": 4, **kwargs})


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (16, 80), (7, 5)])
def test_logits_have_the_size_of_any_2d_image(size):
    assert net().eval()(torch.rand(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("size", [(32, 32, 16), (17, 20, 33)])
def test_logits_have_the_size_of_any_3d_image(size):
    assert net(3).eval()(torch.rand(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gradients_reach_every_parameter_in_the_first_step(spatial_dims):
    model = net(spatial_dims)
    out = model(torch.rand(2, 1, *[32] * spatial_dims))
    (out * torch.rand_like(out)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_decoder_has_the_given_width(spatial_dims):
    default, wide = net(spatial_dims), net(spatial_dims, decoder_channels=12, auxiliary_outputs=AUXILIARY)
    assert (default.decoder.head.in_channels, wide.decoder.head.in_channels) == (FEATURES[0], 12)
    assert net(spatial_dims, decoder_channels=FEATURES[0]).state_dict().keys() == default.state_dict().keys()
    image = torch.rand(2, 1, *[24] * spatial_dims)
    out = wide.eval()(image)
    assert out.shape == (2, 4, *[24] * spatial_dims)
    torch.testing.assert_close(scripted(wide)(image), out)
    wide.train()(image).square().sum().backward()
    assert all(p.grad is not None for p in wide.parameters())


@pytest.mark.parametrize("auxiliary", [AUXILIARY[:1], AUXILIARY])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_auxiliary_outputs_are_untrained_and_independent(spatial_dims, auxiliary):
    plain, model = net(spatial_dims), net(spatial_dims, auxiliary_outputs=auxiliary)
    state = {k: v for k, v in plain.state_dict().items() if not k.startswith("decoder.head")}
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        model.decoder.head.weight[:NUM_CLASSES] = plain.decoder.head.weight
    image = torch.rand(2, 1, *[32] * spatial_dims)
    out = model.eval()(image)
    torch.testing.assert_close(out[:, :NUM_CLASSES], plain.eval()(image))
    assert out.shape[1] == NUM_CLASSES + len(auxiliary)
    torch.testing.assert_close(out[:, NUM_CLASSES:], torch.full_like(out[:, NUM_CLASSES:], UNTRAINED_LOGIT))


def test_first_gradient_of_an_output_stays_in_its_row():
    model = net(auxiliary_outputs=AUXILIARY)
    model(torch.rand(2, 1, 32, 32))[:, -1].sum().backward()
    gradient = model.decoder.head.weight.grad.abs().flatten(1).sum(1)
    assert torch.nonzero(gradient).flatten().tolist() == [NUM_CLASSES + 1]


@pytest.mark.parametrize(("old", "present"), [(True, ["vertebra"]), (False, [])])
def test_argument_before_version_0_7_is_accepted(old, present):
    model = net(vertebra_output=old, auxiliary_outputs=AUXILIARY)
    state = net(auxiliary_outputs=present).state_dict()
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}


def test_slices_of_a_volume_are_segmented_one_by_one():
    model, volume = net().eval(), torch.rand(2, 1, 3, 32, 20)
    out = model(volume)
    for index in range(3):
        torch.testing.assert_close(out[:, :, index], model(volume[:, :, index]))


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_module_can_be_switched_off(switch):
    model, ablated = net(), net(**{switch: False})
    assert ablated(torch.rand(2, 1, 32, 32)).shape == (2, 2, 32, 32)
    count = [sum(p.numel() for p in m.parameters()) for m in (model, ablated)]
    assert count[1] < count[0]


def test_refinement_is_a_gated_addition_or_a_replacement():
    model, plain = net(), net(refinement_gate=None)
    assert float(model.refinement_gate) == pytest.approx(0.1)
    assert {n for n, _ in model.named_parameters()} - {n for n, _ in plain.named_parameters()} == {"refinement_gate"}
    with torch.no_grad():
        model.refinement_gate.zero_()
    x = torch.rand(2, 1, 32, 32)
    bare = net(use_aspp=False, use_rcbam=False, use_rbrab=False, use_lprab=False)
    assert bare.refinement_gate is None
    bare.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model.eval()(x), bare.eval()(x))
    assert plain.eval()(x).shape == (2, 2, 32, 32)


def test_torchscript_has_the_same_logits():
    model, x = net(auxiliary_outputs=AUXILIARY).eval(), torch.rand(1, 1, 40, 24)
    assert model(x).shape[1] == 4
    torch.testing.assert_close(scripted(model)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_has_the_same_logits(tmp_path):
    pytest.importorskip("onnxscript", reason="the ONNX exporter needs the extra `export`")
    runtime = pytest.importorskip("onnxruntime")
    model, x = net().eval(), torch.rand(1, 1, 32, 48)
    torch.onnx.export(model, (x,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    out = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(out), model(x), rtol=1e-3, atol=1e-4)


def test_output_holds_logits_with_zero_initial_bias():
    model = net()
    assert torch.count_nonzero(model.decoder.head.bias) == 0
    out = model.eval()(torch.rand(1, 1, 32, 32))
    assert not torch.allclose(out.sum(dim=1), torch.ones_like(out[:, 0]))


def test_padding_replicates_the_border():
    model, x = net().eval(), torch.rand(1, 1, 41, 30)
    padded = torch.nn.functional.pad(x, (0, 2, 0, 7), mode="replicate")
    torch.testing.assert_close(model(x), model(padded)[..., :41, :30])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims=1; must be 2 or 3"),
        ({"features": (4, 8)}, "five encoder blocks"),
        ({"fusion_stride": 3}, "fusion_stride=3"),
        ({"fusion_channels": 10}, "multiple of 4"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"decoder_channels": 0}, "decoder_channels=0; must be at least 1, or null"),
        ({"decoder_channels": "wide"}, "decoder_channels='wide'; must be at least 1, or null"),
        ({"fusion_stride": 4}, "must be equal to 4"),
        ({"auxiliary_outputs": ["body"]}, r"auxiliary_outputs=\['body'\]: must be one of \[\], \[vertebra\]"),
        ({"auxiliary_outputs": None}, r"auxiliary_outputs=\[None\]: must be one of"),
        (
            {"auxiliary_outputs": ["vertebra"], "out_channels": 3},
            r"out_channels=3 with .*; must be 2, or set auxiliary_outputs to \[\]",
        ),
    ],
)
def test_bad_argument_error_has_value_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        net(**arguments)
