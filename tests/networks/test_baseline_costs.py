# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-adds of the baselines, as published, and of the overlays that state them.

Both are counted a second time by hand from the papers' tables of layers, independently of the networks. Large networks are built on
the meta device, without data.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from monai.bundle import ConfigParser
from scripts.networks.baselines import DeepLabV3Plus, FCN8s, ResidualEncoderUNet, SegNet, UNetPlusPlus
from scripts.networks.outputs import NUM_CLASSES
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

VGG16 = (64, 128, 256, 512, 512)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """One thread: for layers this narrow a second one costs more in synchronisation than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tally:
    """Sums over layers, from their widths and the edge of their square output."""

    def __init__(self) -> None:
        self.weights = self.parameters = self.multiply_adds = 0

    def conv(self, in_width: int, out_width: int, kernel: int, side: int, norm: bool = True, bias: bool = False) -> None:
        self.weights += kernel**2 * in_width * out_width
        self.parameters += kernel**2 * in_width * out_width + 2 * out_width * norm + out_width * bias
        self.multiply_adds += kernel**2 * in_width * out_width * side**2

    def transposed(self, in_width: int, out_width: int, kernel: int, in_side: int, bias: bool = False) -> None:
        """The whole kernel is applied at every position of the input."""
        self.conv(in_width, out_width, kernel, in_side, norm=False, bias=bias)


def unet_plus_plus_by_hand(side: int, channels: int, classes: int, f, monai: bool, norm: bool = True) -> Tally:
    tally = Tally()
    for row in range(5):
        size = side // 2**row
        tally.conv(f[row - 1] if row else channels, f[row], 3, size, norm, not norm)
        tally.conv(f[row], f[row], 3, size, norm, not norm)
        for earlier in range(1, 5 - row):
            up = f[1] if monai and row == 0 else f[row]
            tally.transposed(f[row + 1], up, 2, size // 2, bias=True)
            tally.conv(earlier * f[row] + up, f[row], 3, size, norm, not norm)
            tally.conv(f[row], f[row], 3, size, norm, not norm)
    tally.conv(f[0], classes, 1, side, norm=False, bias=True)
    return tally


def vgg16_by_hand(tally: Tally, side: int, channels: int, f, norm: bool) -> None:
    for stage, convolutions in enumerate((2, 2, 3, 3, 3)):
        for index in range(convolutions):
            in_width = f[stage] if index else ([channels, *f][stage])
            tally.conv(in_width, f[stage], 3, side // 2**stage, norm, not norm)


def segnet_by_hand(side: int, channels: int, classes: int, f) -> Tally:
    tally = Tally()
    vgg16_by_hand(tally, side, channels, f, norm=True)
    # Mirror image of the encoder: the same widths with input and output exchanged.
    for stage, convolutions in ((4, 3), (3, 3), (2, 3), (1, 2)):
        for _ in range(convolutions - 1):
            tally.conv(f[stage], f[stage], 3, side // 2**stage)
        tally.conv(f[stage], f[stage - 1], 3, side // 2**stage)
    tally.conv(f[0], f[0], 3, side)
    tally.conv(f[0], classes, 3, side, norm=False, bias=True)
    return tally


def fcn_by_hand(side: int, channels: int, classes: int, f, norm: bool) -> Tally:
    tally = Tally()
    vgg16_by_hand(tally, side, channels, f, norm)
    tally.conv(f[4], 8 * f[4], 7, side // 32, norm, not norm)
    tally.conv(8 * f[4], 8 * f[4], 1, side // 32, norm, not norm)
    for width, stride in ((8 * f[4], 32), (f[3], 16), (f[2], 8)):
        tally.conv(width, classes, 1, side // stride, norm=False, bias=True)
    for kernel, stride in ((4, 32), (4, 16), (16, 8)):
        tally.transposed(classes, classes, kernel, side // stride)
    return tally


def resnet_by_hand(tally: Tally, side: int, channels: int, f, blocks=(3, 4, 6, 3), strides=(4, 8, 16, 16)) -> None:
    tally.conv(channels, f[0], 7, side // 2)
    in_width, before = f[0], 4
    for width, depth, stride in zip(f[1:], blocks, strides):
        for index in range(depth):
            tally.conv(in_width, width, 1, side // (stride if index else before))
            tally.conv(width, width, 3, side // stride)
            tally.conv(width, 4 * width, 1, side // stride)
            if index == 0:
                tally.conv(in_width, 4 * width, 1, side // stride)
            in_width = 4 * width
        before = stride


def deeplab_by_hand(side: int, channels: int, classes: int, f) -> Tally:
    tally = Tally()
    resnet_by_hand(tally, side, channels, f)
    width, low = f[4] // 2, 3 * f[4] // 32
    tally.conv(4 * f[4], width, 1, side // 16)
    for _ in range(3):
        tally.conv(4 * f[4], width, 3, side // 16)
    tally.conv(4 * f[4], width, 1, 1)
    tally.conv(5 * width, width, 1, side // 16)
    tally.conv(4 * f[1], low, 1, side // 4)
    tally.conv(width + low, width, 3, side // 4)
    tally.conv(width, width, 3, side // 4)
    tally.conv(width, classes, 1, side // 4, norm=False, bias=True)
    return tally


def residual_unet_by_hand(side: int, channels: int, classes: int, f) -> Tally:
    tally = Tally()
    tally.conv(channels, f[0], 3, side)
    for level, depth in enumerate((1, 3, 4, 6, 6, 6)[: len(f)]):
        size, in_width = side // 2**level, f[max(level - 1, 0)]
        tally.conv(in_width, f[level], 3, size)
        for _ in range(2 * depth - 1):
            tally.conv(f[level], f[level], 3, size)
        if in_width != f[level]:
            tally.conv(in_width, f[level], 1, size)
    for level in range(len(f) - 1):
        tally.transposed(f[level + 1], f[level], 2, side // 2 ** (level + 1))
        tally.conv(2 * f[level], f[level], 3, side // 2**level)
    tally.conv(f[0], classes, 1, side, norm=False, bias=True)
    return tally


def unet_by_hand(side: int, channels: int, classes: int, f) -> Tally:
    """MONAI's BasicUNet, whose convolutions have both a bias and a normalisation."""
    tally = Tally()
    for level, width in enumerate(f):
        tally.conv(f[level - 1] if level else channels, width, 3, side // 2**level, bias=True)
        tally.conv(width, width, 3, side // 2**level, bias=True)
    for level in range(len(f) - 1):
        up = f[level + 1] // 2 if level else f[1]
        tally.transposed(f[level + 1], up, 2, side // 2 ** (level + 1), bias=True)
        tally.conv(f[level] + up, f[level], 3, side // 2**level, bias=True)
        tally.conv(f[level], f[level], 3, side // 2**level, bias=True)
    tally.conv(f[0], classes, 1, side, norm=False, bias=True)
    return tally


def measured(build: Callable[[], nn.Module], channels: int = 1, side: int = 256) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image, of a network on the meta device."""
    with torch.device("meta"):
        model, x = build().eval(), torch.rand(1, channels, side, side)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(x)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


def test_unet_plus_plus_has_the_published_size_but_for_one_row():
    widths = (32, 64, 128, 256, 512)
    tally = unet_plus_plus_by_hand(256, 1, 2, widths, monai=True)
    assert measured(lambda: UNetPlusPlus(features=widths)) == (tally.parameters, tally.multiply_adds)
    # Zhou et al. 2018, Table 3: 9.04 million, with biases and no normalisation.
    published = unet_plus_plus_by_hand(256, 3, 1, widths, monai=False, norm=False)
    assert published.parameters / 1e6 == pytest.approx(9.04, abs=0.01)
    # MONAI's first row keeps 64 channels from below, where the paper has 32, in each of its four nodes.
    assert tally.weights - unet_plus_plus_by_hand(256, 1, 2, widths, monai=False).weights == 4 * (4 * 64 + 9 * 32) * 32


def test_segnet_has_the_published_size():
    tally = segnet_by_hand(256, 3, 12, VGG16)
    parameters, multiply_adds = measured(lambda: SegNet(in_channels=3, out_channels=12), channels=3)
    assert (parameters, multiply_adds) == (tally.parameters, tally.multiply_adds)
    # 29.46 million in Table 3 of Paszke et al. 2016, arXiv:1606.02147, with a bias beside each normalisation.
    assert parameters / 1e6 == pytest.approx(29.46, abs=0.02)
    encoder = Tally()
    vgg16_by_hand(encoder, 224, 3, VGG16, norm=False)
    # Badrinarayanan et al. 2017, section 3: 14.7 million in the encoder; 138 357 544 in VGG16 less its three dense layers.
    assert encoder.parameters == 138_357_544 - (512 * 49 * 4096 + 4096) - (4096**2 + 4096) - (4096 * 1000 + 1000)


def test_fcn_has_the_published_size():
    tally = fcn_by_hand(256, 3, 21, VGG16, norm=False)
    plain = measured(lambda: FCN8s(in_channels=3, out_channels=21, norm=None), channels=3)
    assert plain == (tally.parameters, tally.multiply_adds)
    # Long et al. 2015, Table 1: 134 million for FCN-VGG16.
    assert plain[0] / 1e6 == pytest.approx(134, abs=0.5)
    normalised = fcn_by_hand(256, 3, 21, VGG16, norm=True)
    assert measured(lambda: FCN8s(in_channels=3, out_channels=21), channels=3) == (normalised.parameters, normalised.multiply_adds)


def test_deeplab_has_the_size_of_resnet_50_and_its_decoder():
    tally = deeplab_by_hand(256, 3, 21, (64, *VGG16[:4]))
    assert measured(lambda: DeepLabV3Plus(in_channels=3, out_channels=21), channels=3) == (tally.parameters, tally.multiply_adds)
    # torchvision states 25 557 032 parameters and 4.09 billion multiply-adds at 224x224 for ResNet-50, dense layer included.
    encoder = Tally()
    resnet_by_hand(encoder, 224, 3, (64, *VGG16[:4]), strides=(4, 8, 16, 32))
    assert encoder.parameters == 25_557_032 - (2048 * 1000 + 1000)
    assert (encoder.multiply_adds + 2048 * 1000) / 1e9 == pytest.approx(4.09, abs=0.005)
    with torch.device("meta"):
        model = DeepLabV3Plus(in_channels=3)
        deeper = DeepLabV3Plus(in_channels=3, blocks=(3, 4, 23, 3))
    encoder_of = [
        sum(p.numel() for part in (m.stem, m.first_stage, m.later_stages) for p in part.parameters()) for m in (model, deeper)
    ]
    # ResNet-101 is stated with 44 549 160.
    assert encoder_of == [encoder.parameters, 44_549_160 - (2048 * 1000 + 1000)]


@pytest.mark.parametrize(
    ("features", "parameters", "heads"),
    [((32, 64, 128, 256, 512, 512), 71_797_738, (64, 128, 256, 512)), ((16, 32, 64, 128, 256), 9_432_568, (32, 64, 128))],
)
def test_residual_unet_has_the_size_of_nnunet(features, parameters, heads):
    # dynamic-network-architectures 0.3.1, ResidualEncoderUNet(1, n, features, Conv2d, 3, [1, 2, ...], [1, 3, 4, 6, ...], 2, 1,
    # conv_bias=False, InstanceNorm2d, affine): it also has the 1x1 heads of deep supervision, ours has none.
    unused = sum(2 * width + 2 for width in heads)
    tally = residual_unet_by_hand(256, 1, 2, features)
    size = measured(lambda: ResidualEncoderUNet(features=features))
    assert size == (parameters - unused, tally.multiply_adds)
    assert size[0] == tally.parameters


def test_residual_unet_has_the_cost_of_nnunet_in_3d():
    widths = (32, 64, 128, 256, 320, 320)
    with torch.device("meta"):
        model, x = ResidualEncoderUNet(3, features=widths).eval(), torch.rand(1, 1, 64, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    # The same library: 102 335 914 parameters, 1544 of them in unused heads; 89 675 399 168 multiply-adds.
    assert sum(p.numel() for p in model.parameters()) == 102_335_914 - 1544
    assert counter.get_total_flops() == 2 * 89_675_399_168


BY_HAND = {
    "unet": unet_by_hand,
    "unet_plus_plus": lambda *a: unet_plus_plus_by_hand(*a, monai=True),
    "segnet": segnet_by_hand,
    "fcn": lambda *a: fcn_by_hand(*a, norm=True),
    "deeplabv3_plus": deeplab_by_hand,
    "residual_unet": residual_unet_by_hand,
}


MSFFNETS = ("full_width", "wide_decoder")


def overlaid(bundle, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f) for f in ("train.yaml", f"network/{name}.yaml")])
    parser["bundle_root"], parser["device"] = str(bundle), "cpu"
    return parser


def test_every_network_overlay_has_a_count_by_hand(bundle):
    assert {p.stem for p in (bundle / "configs" / "network").glob("*.yaml")} == {
        *BY_HAND,
        *MSFFNETS,
        "spinegan",  # test_spine_gan.py
    }


@pytest.mark.parametrize("name", [*BY_HAND, *MSFFNETS])
def test_overlay_builds_a_network_for_the_training_config(bundle, name):
    parser = overlaid(bundle, name)
    if name not in MSFFNETS:
        assert parser.get_parsed_content("network")(torch.rand(2, 1, 40, 33)).shape == (2, NUM_CLASSES, 40, 33)
        return
    with torch.device("meta"):
        assert parser.get_parsed_content("network_def")(torch.rand(2, 1, 40, 33)).shape == (2, NUM_CLASSES + 1, 40, 33)


@pytest.mark.parametrize("name", BY_HAND)
def test_overlay_has_the_stated_cost_comparable_to_unet(bundle, name):
    parser = overlaid(bundle, name)
    parameters, multiply_adds = measured(lambda: parser.get_parsed_content("network_def"))
    tally = BY_HAND[name](256, 1, 2, parser["network_def::features"][:5])
    assert (parameters, multiply_adds) == (tally.parameters, tally.multiply_adds)
    unet = unet_by_hand(256, 1, 2, (16, 32, 64, 128, 256)).multiply_adds
    assert 0.8 < multiply_adds / unet < 1.3
    if name == "unet":
        return
    first = (bundle / "configs" / "network" / f"{name}.yaml").read_text().splitlines()[0]
    stated = re.search(r"([\d.]+) G multiply-adds for 256x256, ([\d.]+) M parameters", first)
    assert stated, first
    assert stated.groups() == (f"{multiply_adds / 1e9:.1f}", f"{parameters / 1e6:.1f}")


@pytest.mark.parametrize("name", [n for n in BY_HAND if n != "unet"])
def test_features_scale_all_widths_of_an_overlay(bundle, name):
    parser = overlaid(bundle, name)
    narrow = parser["network_def::features"]
    before = measured(lambda: parser.get_parsed_content("network_def"))
    parser = overlaid(bundle, name)
    parser["network_def::features"] = [2 * width for width in narrow]
    after = measured(lambda: parser.get_parsed_content("network_def"))
    assert 3.5 < after[0] / before[0] < 4.1
    assert 3.5 < after[1] / before[1] < 4.1
