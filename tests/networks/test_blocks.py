# SPDX-License-Identifier: Apache-2.0
"""Blocks in 2D and 3D: shape, gradients to every parameter, TorchScript, bad arguments."""

from __future__ import annotations

import pytest
import torch
from conftest import scripted
from scripts.networks.aspp import AtrousSpatialPyramidPooling
from scripts.networks.baselines.atrous import AtrousPyramid
from scripts.networks.baselines.residual_unet import ResidualBlock
from scripts.networks.baselines.spine_gan import LocalRecurrence
from scripts.networks.bottleneck import BottleneckDecoder, SegmentationDecoder
from scripts.networks.encoder import UNetEncoder
from scripts.networks.ffm import FeatureFusionModule
from scripts.networks.lprab import AxialPositionGate, LocalPositionResidualAttention
from scripts.networks.projection import LevelProjection
from scripts.networks.rbrab import PooledSelfAttention, ResidualBorderRefinementAttention
from scripts.networks.rcbam import ChannelAttention, ResidualConvBlockAttention, SpatialAttention
from scripts.networks.sem import SqueezeExcitationModule
from scripts.networks.separable import SeparableConvolution
from torch import nn

SIZE = {2: (16, 24), 3: (16, 8, 8)}
CHANNELS = (4, 8, 8, 12)


def levels(spatial_dims: int) -> list[torch.Tensor]:
    return [torch.rand(2, c, *(s // 2**i * 2 for s in SIZE[spatial_dims])) for i, c in enumerate(CHANNELS)]


def assert_gradients_reach_every_parameter(module: nn.Module, output: torch.Tensor) -> None:
    (output * torch.rand_like(output)).sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


SAME_SHAPE = [
    lambda d: AtrousSpatialPyramidPooling(d, 8, 8, rates=(1, 2)),
    lambda d: ChannelAttention(d, 8),
    lambda d: SpatialAttention(d, 3),
    lambda d: ResidualConvBlockAttention(d, 8, kernel_size=3),
    lambda d: PooledSelfAttention(d, 8, token_grid=3),
    lambda d: ResidualBorderRefinementAttention(d, 8, token_grid=3),
    lambda d: AxialPositionGate(d, 8),
    lambda d: LocalPositionResidualAttention(d, 8),
    lambda d: LocalRecurrence(d, 8),
    lambda d: AtrousPyramid(d, 8, 8, rates=(1, 2)),
    lambda d: AtrousPyramid(d, 8, 8, rates=(2,), separable=True),
    lambda d: ResidualBlock(d, 8, 8),
]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("build", SAME_SHAPE)
def test_refining_block_keeps_the_shape_trains_and_scripts(build, spatial_dims):
    torch.manual_seed(0)
    module = build(spatial_dims)
    x = torch.randn(2, 8, *SIZE[spatial_dims])
    y = module(x)
    assert y.shape == x.shape
    assert_gradients_reach_every_parameter(module, y)
    module.eval()
    torch.testing.assert_close(scripted(module)(x), module(x))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("build", "channels", "scale"),
    [
        (lambda d: SeparableConvolution(d, 8, 10), 10, 1),
        (lambda d: SeparableConvolution(d, 8, 10, stride=2), 10, 0.5),
        (lambda d: BottleneckDecoder(d, 8, 6), 6, 2),
        (lambda d: ResidualBlock(d, 8, 6, stride=2), 6, 0.5),
    ],
)
def test_resampling_block_scales_the_size_trains_and_scripts(build, channels, scale, spatial_dims):
    torch.manual_seed(0)
    module = build(spatial_dims)
    x = torch.randn(2, 8, *SIZE[spatial_dims])
    y = module(x)
    assert y.shape == (2, channels, *(scale * s for s in SIZE[spatial_dims]))
    assert_gradients_reach_every_parameter(module, y)
    module.eval()
    torch.testing.assert_close(scripted(module)(x), module(x))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("shift", "act"), [(1, None), (0, "relu"), (-1, None)])
def test_projection_has_the_size_of_the_other_level(spatial_dims, shift, act):
    torch.manual_seed(0)
    module = LevelProjection(spatial_dims, 3, 5, level_shift=shift, act=act)
    x, like = (torch.rand(2, 3, *(int(s * k) for s in SIZE[spatial_dims])) for k in (1, 2.0**shift))
    y = module(x, like)
    assert y.shape == (2, 5, *like.shape[2:])
    assert_gradients_reach_every_parameter(module, y)
    module.eval()
    torch.testing.assert_close(scripted(module)(x, like), module(x, like))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_encoder_halves_the_size_block_by_block(spatial_dims):
    torch.manual_seed(0)
    module = UNetEncoder(spatial_dims, 1, (4, 8, 8))
    x = torch.rand(2, 1, *SIZE[spatial_dims])
    outputs = module(x)
    assert [o.shape for o in outputs] == [(2, c, *(s // 2**i for s in x.shape[2:])) for i, c in enumerate((4, 8, 8))]
    assert_gradients_reach_every_parameter(module, torch.cat([o.flatten() for o in outputs]))
    module.eval()
    for compiled, output in zip(scripted(module)(x), module(x), strict=True):
        torch.testing.assert_close(compiled, output)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_fusion_keeps_the_shapes_and_mixes_all_levels(spatial_dims):
    torch.manual_seed(0)
    module = FeatureFusionModule(spatial_dims, CHANNELS)
    features = [f.requires_grad_() for f in levels(spatial_dims)]
    fused = module(features)
    assert [f.shape for f in fused] == [f.shape for f in features]
    for level in fused:
        grads = torch.autograd.grad(level.square().sum(), features, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in grads)
    assert_gradients_reach_every_parameter(module, torch.cat([f.flatten() for f in fused]))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("excite", [True, False])
@pytest.mark.parametrize("target", [0, 1])
def test_excitation_resizes_all_levels_to_one_size(spatial_dims, excite, target):
    module = SqueezeExcitationModule(spatial_dims, CHANNELS, out_channels=4, target_level=target, excite=excite)
    features = levels(spatial_dims)
    out = module(features)
    assert out.shape == (2, 16, *features[target].shape[2:])
    assert_gradients_reach_every_parameter(module, out)


def test_projection_to_a_coarser_level_commutes_with_pooling():
    torch.manual_seed(0)
    module = LevelProjection(2, 3, 5, level_shift=-2, norm=None)
    x, like = torch.rand(1, 3, 16, 16), torch.rand(1, 5, 4, 4)
    first = nn.functional.avg_pool2d(module.project(x), 4)
    torch.testing.assert_close(module(x, like), first)


def test_decoder_upsampling_commutes_with_its_convolution():
    torch.manual_seed(0)
    module = BottleneckDecoder(2, 4, 6).eval()
    x = torch.randn(1, 4, 8, 8)
    upsampled = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(x), module.project(upsampled).relu())


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("stride", "strides", "transposed"), [(2, (2, 1, 1), 1), (4, (1, 1, 1), 1), (2, (2, 2, 1), 2), (4, (2, 1, 1), 2)]
)
def test_decoder_output_has_the_size_of_the_image(spatial_dims, stride, strides, transposed):
    module = SegmentationDecoder(spatial_dims, 8, 4, 2, stride, strides, transposed)
    out = module(torch.rand(2, 8, *SIZE[spatial_dims]))
    assert out.shape == (2, 2, *(s * stride for s in SIZE[spatial_dims]))
    assert_gradients_reach_every_parameter(module, out)


def test_bottleneck_encoder_is_separable():
    module = SeparableConvolution(2, 6, 10, stride=2)
    assert module.depthwise.conv.groups == 6
    assert module.pointwise.conv.kernel_size == (1, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeatureFusionModule(2, (4,)), "two or more"),
        (lambda: SqueezeExcitationModule(2, CHANNELS, 4, target_level=4), "target_level=4"),
        (lambda: AtrousSpatialPyramidPooling(2, 8, 9, rates=(1, 2)), "multiple of 2"),
        (lambda: AtrousSpatialPyramidPooling(2, 8, 8, rates=(1, 0)), "rates"),
        (lambda: PooledSelfAttention(2, 8, token_grid=0), "token_grid=0"),
        (lambda: SegmentationDecoder(2, 8, 4, 2, 2, (1, 1, 1), 1), r"is 2; must be equal to 4 \* transposed_stride=4"),
        (lambda: SegmentationDecoder(2, 8, 4, 2, 2, (3, 1, 1), 1), "must be three values of 1 or 2"),
        (lambda: LocalRecurrence(2, 8, region=3), "region=3; must be a power of two"),
    ],
)
def test_bad_argument_error_has_value_and_remedy(build, message):
    with pytest.raises(ValueError, match=message):
        build()
