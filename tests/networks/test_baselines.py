# SPDX-License-Identifier: Apache-2.0
"""Baselines: any size, gradients, export, bad arguments, and the properties that distinguish them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import scripted
from monai.networks.nets import BasicUNet
from scripts.networks.baselines import DeepLabV3Plus, FCN8s, ResidualEncoderUNet, SegNet, UNetPlusPlus
from scripts.networks.baselines.atrous import AtrousPyramid
from scripts.networks.baselines.fcn import bilinear_upsampling
from scripts.networks.baselines.residual_unet import ResidualBlock
from scripts.networks.baselines.segnet import unpool
from torch import nn
from torch.nn import functional

FEATURES = (4, 8, 8, 12, 16)
BASELINES = (UNetPlusPlus, SegNet, FCN8s, DeepLabV3Plus, ResidualEncoderUNet)


def basic_unet(spatial_dims: int, features=FEATURES) -> BasicUNet:
    return BasicUNet(spatial_dims, 1, 2, (*features, features[0]), act="relu", norm="batch")


NETWORKS = (*BASELINES, basic_unet)


def net(build: Callable, spatial_dims: int = 2, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return build(spatial_dims, features=FEATURES, **kwargs)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """One thread: for layers this narrow a second one costs more in synchronisation than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [(33, 47), (16, 80), (17, 20, 33)])
@pytest.mark.parametrize("build", NETWORKS)
def test_logits_have_the_size_of_any_image(build, size):
    assert net(build, len(size)).eval()(torch.rand(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("build", BASELINES)
def test_gradients_of_one_tiny_image_are_finite(build):
    model = net(build)
    out = model(torch.rand(1, 1, 7, 5))
    assert out.shape == (1, 2, 7, 5)
    out.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("build", NETWORKS)
def test_gradients_reach_every_parameter_in_the_first_step(build, spatial_dims):
    # Blocks initialised to their shortcut have no gradient in the first step.
    model = net(build, spatial_dims, **({"zero_residual": False} if build is ResidualEncoderUNet else {}))
    out = model(torch.rand(1, 1, *[32] * spatial_dims))
    (out * torch.rand_like(out)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("build", BASELINES)
def test_loss_falls_with_other_channels_and_classes(build):
    model = net(build, in_channels=3, out_channels=4, dropout=0.1)
    x = torch.rand(2, 3, 32, 32)
    target = (x[:, 0] * 4).long().clamp(0, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(functional.cross_entropy(model(x), target))
        losses[-1].backward()
        optimizer.step()
    assert min(losses[4:]) < losses[0]


@pytest.mark.parametrize("build", BASELINES)
@pytest.mark.parametrize("size", [(40, 24), (17, 20, 33)])
def test_torchscript_has_the_same_logits(build, size):
    model, x = net(build, len(size)).eval(), torch.rand(1, 1, *size)
    torch.testing.assert_close(scripted(model)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", BASELINES)
def test_export_has_the_same_logits(build):
    model, x = net(build).eval(), torch.rand(1, 1, 33, 48)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("build", BASELINES)
def test_onnx_has_the_same_logits(build, tmp_path):
    pytest.importorskip("onnxscript", reason="the ONNX exporter needs the extra `export`")
    runtime = pytest.importorskip("onnxruntime")
    model, x = net(build).eval(), torch.rand(1, 1, 33, 48)
    torch.onnx.export(model, (x,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    out = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(out), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("build", BASELINES)
def test_padding_replicates_the_border(build):
    model, x = net(build).eval(), torch.rand(1, 1, 57, 90)
    padded = functional.pad(x, (0, 6, 0, 7), mode="replicate")
    torch.testing.assert_close(model(x), model(padded)[..., :57, :90], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims=1; must be 2 or 3"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": 0}, "out_channels=0"),
        ({"features": (4,)}, r"features=\(4,\); must have"),
        ({"features": (4, 8, 0, 8, 8)}, r"features=\(4, 8, 0, 8, 8\); must have widths of 1 or more"),
        ({"dropout": 1.0}, "dropout=1.0; must be a probability"),
    ],
)
@pytest.mark.parametrize("build", BASELINES)
def test_bad_argument_error_has_network_value_and_remedy(build, arguments, message):
    with pytest.raises(ValueError, match=f"{build.__name__}: .*{message}"):
        build(**{"features": FEATURES, **arguments})


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (UNetPlusPlus, {"features": (4, 8, 9, 8, 8)}, "must be even"),
        (FCN8s, {"fc_channels": 0}, "fc_channels=0; must be 1 or more"),
        (DeepLabV3Plus, {"blocks": (1, 1, 1)}, r"blocks=\(1, 1, 1\); must be four"),
        (DeepLabV3Plus, {"block": "dense"}, "block='dense'; must be 'basic' or 'bottleneck'"),
        (DeepLabV3Plus, {"output_stride": 4}, "output_stride=4; must be 16 or 8"),
        (DeepLabV3Plus, {"rates": (6, 0)}, r"rates=\(6, 0\); must be"),
        (DeepLabV3Plus, {"aspp_channels": 2}, "aspp_channels=2; must be 4 or more"),
        (DeepLabV3Plus, {"low_level_channels": 0}, "low_level_channels=0; must be 1 or more"),
        (ResidualEncoderUNet, {"blocks": (1, 2)}, r"blocks=\(1, 2\); must be 5 numbers"),
        (ResidualEncoderUNet, {"blocks": (1, 2, 2, 0, 1)}, r"blocks=\(1, 2, 2, 0, 1\); must be 5 numbers"),
    ],
)
def test_bad_argument_of_one_network(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**{"features": FEATURES, **arguments})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_unpooling_restores_the_positions_of_the_maxima(layout):
    x = torch.rand(2, 3, 8, 12).to(memory_format=layout)
    values, indices = functional.max_pool2d(x, 2, return_indices=True)
    back = unpool(values, indices)
    is_maximum = x == functional.interpolate(values, scale_factor=2.0, mode="nearest")
    assert int(is_maximum.sum()) == values.numel()
    assert torch.equal(back, x * is_maximum)
    assert torch.equal(back, functional.max_unpool2d(values, indices, 2))


def test_unpooling_in_3d_equals_pytorch():
    values, indices = functional.max_pool3d(torch.rand(2, 3, 8, 4, 6), 2, return_indices=True)
    assert torch.equal(unpool(values, indices), functional.max_unpool3d(values, indices, 2))


@pytest.mark.parametrize("build", BASELINES)
def test_training_step_runs_with_deterministic_algorithms(build):
    torch.use_deterministic_algorithms(True)
    try:
        net(build)(torch.rand(1, 1, 32, 32)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_segnet_decoder_unpools_with_its_own_stage():
    model, positions, inputs = net(SegNet).eval(), [], []
    for pool in model.pools:
        pool.register_forward_hook(lambda module, args, out: positions.append(out[1]))
    for stage in model.decoder:
        stage.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    model(torch.rand(1, 1, 64, 64))
    assert len(positions) == len(inputs) == 5
    for indices, sparse in zip(reversed(positions), inputs):
        at_maxima = sparse.flatten(2).gather(2, indices.flatten(2))
        assert torch.count_nonzero(at_maxima) == torch.count_nonzero(sparse) > 0


@pytest.mark.parametrize(("spatial_dims", "mode"), [(2, "bilinear"), (3, "trilinear")])
@pytest.mark.parametrize("factor", [2, 8])
def test_fcn_upsampling_is_initialised_to_interpolation(spatial_dims, mode, factor):
    x = torch.rand(1, 3, *[5] * spatial_dims)
    inside = (..., *[slice(factor, -factor)] * spatial_dims)
    expected = functional.interpolate(x, scale_factor=float(factor), mode=mode, align_corners=False)
    torch.testing.assert_close(bilinear_upsampling(spatial_dims, 3, factor)(x)[inside], expected[inside])


@pytest.mark.parametrize(("output_stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
def test_deeplab_keeps_the_output_stride_and_doubles_the_rates(output_stride, rates):
    model, sizes = net(DeepLabV3Plus, output_stride=output_stride).eval(), []
    model.aspp.register_forward_hook(lambda module, args, out: sizes.append(out.shape[2:]))
    assert model(torch.rand(1, 1, 64, 96)).shape == (1, 2, 64, 96)
    assert sizes == [(64 // output_stride, 96 // output_stride)]
    assert [b.conv.dilation[0] for b in model.aspp.branches] == [1, *rates]
    dilations = [{m.dilation[0] for m in s.modules() if isinstance(m, nn.Conv2d)} for s in model.later_stages]
    assert dilations == ([{1}, {1}, {1, 2}] if output_stride == 16 else [{1}, {1, 2}, {1, 4}])


@pytest.mark.parametrize("arguments", [{"block": "basic"}, {"separable": True}])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_variants_of_deeplab_have_fewer_parameters(spatial_dims, arguments):
    model = net(DeepLabV3Plus, spatial_dims, blocks=(1, 1, 1, 1), **arguments)
    assert model(torch.rand(1, 1, *[32] * spatial_dims)).shape == (1, 2, *[32] * spatial_dims)
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in net(DeepLabV3Plus, spatial_dims, blocks=(1, 1, 1, 1)).parameters()
    )


def test_image_mean_is_independent_of_the_batch():
    torch.manual_seed(0)
    pyramid, x = AtrousPyramid(2, 6, 8), torch.rand(3, 6, 4, 4)
    alone = pyramid.mean(x[:1].mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(pyramid.mean(x.mean(dim=(2, 3), keepdim=True))[:1], alone)


def test_residual_blocks_are_initialised_to_their_shortcut():
    block = ResidualBlock(2, 4, 6, stride=2)
    x = torch.rand(2, 4, 8, 8)
    assert not torch.equal(block(x), block.shortcut(x).relu())
    block = ResidualBlock(2, 4, 6, stride=2, norm=("instance", {"affine": True}))
    block.zero_initialize()
    torch.testing.assert_close(block(x), block.shortcut(x).relu())
    blocks = [m for m in net(ResidualEncoderUNet).modules() if isinstance(m, ResidualBlock)]
    assert len(blocks) == 1 + 3 + 4 + 6 + 6
    assert all(torch.count_nonzero(b.second.adn.N.weight) == 0 for b in blocks)
