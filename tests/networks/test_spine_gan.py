# SPDX-License-Identifier: Apache-2.0
"""Spine-GAN: any size, 2D and 3D, gradients, export, parameters and multiply-adds by hand, bad arguments."""

from __future__ import annotations

import pytest
import torch
from scripts.networks.baselines import SpineGANDiscriminator, SpineGANSegmenter
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

FEATURES = (4, 6, 8)


def net(spatial_dims: int = 2, **kwargs) -> SpineGANSegmenter:
    torch.manual_seed(0)
    return SpineGANSegmenter(**{"spatial_dims": spatial_dims, "features": FEATURES, **kwargs})


def discriminator(spatial_dims: int = 2, **kwargs) -> SpineGANDiscriminator:
    torch.manual_seed(0)
    return SpineGANDiscriminator(**{"spatial_dims": spatial_dims, "features": FEATURES, "hidden": 5, **kwargs})


def parameters_without_gradient(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (16, 80), (7, 5)])
def test_logits_have_the_size_of_any_2d_image(size):
    assert net().eval()(torch.rand(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("size", [(16, 32, 16), (17, 20, 9)])
def test_logits_have_the_size_of_any_3d_image(size):
    assert net(3, in_channels=2, out_channels=3).eval()(torch.rand(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gradients_reach_every_parameter_in_the_first_step(spatial_dims):
    model, size = net(spatial_dims), [32, 32, 16][:spatial_dims]
    out = model(torch.rand(2, 1, *size))
    (out * torch.rand_like(out)).sum().backward()
    assert parameters_without_gradient(model) == []


def test_one_image_smaller_than_a_region_trains():
    out = net()(torch.rand(1, 1, 9, 12))
    out.square().sum().backward()
    assert out.isfinite().all()


def test_padding_replicates_the_border():
    model, x = net().eval(), torch.rand(1, 1, 41, 30)
    padded = nn.functional.pad(x, (0, 2, 0, 7), mode="replicate")
    torch.testing.assert_close(model(x), model(padded)[..., :41, :30])


def test_channels_last_and_torchscript_have_the_same_logits():
    model, x = net().eval(), torch.rand(2, 1, 40, 24)
    expected = model(x)
    torch.testing.assert_close(torch.jit.script(model)(x), expected, rtol=1e-4, atol=1e-5)
    channels_last = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, expected, rtol=1e-4, atol=1e-5)


def test_lstm_input_is_the_region_means_row_by_row():
    layer = net().recurrence.eval()
    inputs = []
    layer.lstm.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    x = torch.rand(1, 8, 8, 12)
    layer(x)
    means = [x[0, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean((1, 2)) for i in range(2) for j in range(3)]
    torch.testing.assert_close(inputs[0][0], torch.stack(means))


def test_a_region_changes_itself_and_all_later_regions():
    layer = net().recurrence.eval()
    x = torch.rand(1, 8, 16, 16)
    other = x.clone()
    other[..., 4:8, 8:12] += 1  # seventh region of sixteen
    with torch.no_grad():
        states = [layer.lstm(layer.pool(v).movedim(1, -1).flatten(1, -2))[0][0] for v in (x, other)]
        changed = (states[0] - states[1]).abs().amax(1) > 0
        added = (layer(other) - layer(x) - (other - x)).abs().amax((0, 1)) > 1e-7
    assert changed.tolist() == [False] * 6 + [True] * 10
    assert added[-4:].any()


def test_initial_bias_is_one_in_forget_gates_and_zero_in_logits():
    model = net()
    bias = (model.recurrence.lstm.bias_ih_l0 + model.recurrence.lstm.bias_hh_l0).detach().reshape(4, -1)
    assert bias.mean(1).tolist() == [0, 1, 0, 0]
    assert torch.count_nonzero(model.head.bias) == 0


def test_dropout_follows_atrous_convolutions_and_decoder():
    names = [n for n, m in net(dropout=0.25).named_modules() if isinstance(m, nn.Dropout) and m.p == 0.25]
    assert len(names) == 4 + 1
    assert "dropout" in names


def segmenter_parameters(d: int, i: int, o: int, a: int, b: int, c: int) -> int:
    convolutions = 7**d * (i * a + a * a) + 3**d * (a * b + b * b + b * c + 3 * c * c)
    normalised = 2 * (2 * a + 2 * b + 4 * c)
    lstm = 4 * c * (c + c + 2)
    upwards = 4 * (3**d * c * c + 2 * c)
    return convolutions + normalised + lstm + upwards + c * b + 2 * b + b * o + o


def segmenter_multiply_adds(i: int, o: int, a: int, b: int, c: int, height: int, width: int) -> tuple[int, int]:
    """All but the LSTM, and the LSTM. A transposed convolution costs its kernel at every position of its input."""
    n = height * width
    full = 49 * (i * a + a * a) + c * b + b * o
    half = 9 * (a * b + b * b) + 9 * c * c
    quarter = 9 * (b * c + 3 * c * c) + 9 * c * c
    recurrence = 9 * c * c * n // 64 + 9 * c * c * n // 256
    return full * n + half * n // 4 + quarter * n // 16 + recurrence, 4 * c * 2 * c * n // 256


@pytest.mark.parametrize(
    ("spatial_dims", "channels", "features"), [(2, (1, 2), (16, 32, 64)), (2, (3, 4), FEATURES), (3, (1, 2), FEATURES)]
)
def test_parameters_equal_the_count_by_hand(spatial_dims, channels, features):
    model = net(spatial_dims, in_channels=channels[0], out_channels=channels[1], features=features)
    assert sum(p.numel() for p in model.parameters()) == segmenter_parameters(spatial_dims, *channels, *features)


class NoRecurrence(nn.Module):
    def forward(self, x):
        return x, None


@pytest.mark.parametrize(("features", "size"), [((16, 32, 64), (256, 256)), (FEATURES, (64, 32))])
def test_multiply_adds_equal_the_count_by_hand(features, size):
    model = net(features=features).eval()
    model.recurrence.lstm = NoRecurrence()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 1, *size))
    convolutions, lstm = segmenter_multiply_adds(1, 2, *features, *size)
    assert counter.get_total_flops() == 2 * convolutions
    assert lstm < 0.02 * convolutions


def test_cost_of_the_config_is_comparable_to_unet():
    from monai.networks.nets import BasicUNet

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        BasicUNet(2, 1, 2, (16, 32, 64, 128, 256, 16))(torch.rand(1, 1, 256, 256))
    ratio = 2 * sum(segmenter_multiply_adds(1, 2, 16, 32, 64, 256, 256)) / counter.get_total_flops()
    assert 0.5 < ratio < 2


@pytest.mark.parametrize(("size", "positions"), [((64, 64), (1, 1)), ((256, 192), (4, 3)), ((70, 5), (2, 1)), ((1, 1), (1, 1))])
def test_discriminator_has_one_logit_per_patch_of_any_map(size, positions):
    assert discriminator()(torch.rand(1, 2, *size)).shape == (1, 1, *positions)


def test_discriminator_trains_every_parameter_on_volumes():
    model = discriminator(3, features=(4, 6), in_channels=3)
    model(torch.rand(2, 3, 16, 20, 9)).square().sum().backward()
    assert parameters_without_gradient(model) == []


def test_discriminator_parameters_equal_the_count_by_hand():
    a, b, c = 32, 64, 128
    expected = 49 * (2 * a + a * b + b * c) + 2 * (a + b + c) + c * 256 + 256 + 256 + 1
    assert sum(p.numel() for p in SpineGANDiscriminator().parameters()) == expected


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (net, {"spatial_dims": 1}, "spatial_dims=1; must be 2 or 3"),
        (net, {"out_channels": 0}, "out_channels=0"),
        (net, {"features": (4, 8)}, r"features=\(4, 8\); must have 3 widths"),
        (net, {"features": (4, 8, 0)}, "must have widths of 1 or more"),
        (net, {"rates": ()}, r"rates=\(\); must be one or more"),
        (net, {"rates": (1, 0)}, "integers >= 1"),
        (net, {"region": 3}, "region=3; must be a power of two"),
        (net, {"dropout": 1.0}, "dropout=1.0"),
        (discriminator, {"spatial_dims": 4}, "spatial_dims=4; must be 2 or 3"),
        (discriminator, {"features": ()}, "must have 1 or more widths"),
        (discriminator, {"hidden": 0}, "hidden=0"),
        (discriminator, {"dropout": -0.1}, "dropout=-0.1"),
    ],
)
def test_bad_argument_error_has_value_and_remedy(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
