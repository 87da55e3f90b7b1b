# SPDX-License-Identifier: Apache-2.0
"""Random noise, thick slices, missing neighbours and gamma: measured distributions."""

from __future__ import annotations

from math import log

import pytest
import torch
from randomised import change, constant
from scripts.training.randomisation.acquisition import RandCtNoise, RandDropChannels, RandGamma, RandThickSlices
from scripts.training.randomisation.batch import BatchRandomisation


def neighbour_correlation(noise: torch.Tensor) -> torch.Tensor:
    """Return the correlation (B,) of adjacent voxels along the last axis."""
    pair = (noise[..., 1:] * noise[..., :-1]).flatten(1).mean(1)
    return pair / noise.flatten(1).var(1)


def test_noise_has_a_log_uniform_deviation():
    noise = change(RandCtNoise((4, 90)), constant(0.0, channels=3, size=(24, 24)))
    logs = noise.flatten(1).std(1).log()
    assert abs(float(noise.mean())) < 1
    assert log(4) - 0.2 < logs.min() < log(5)
    assert log(80) < logs.max() < log(90) + 0.2
    assert float(logs.mean()) == pytest.approx((log(4) + log(90)) / 2, abs=0.15)
    assert float(logs.std()) == pytest.approx((log(90) - log(4)) / 12**0.5, rel=0.1)


def test_white_and_correlated_noise_have_one_deviation():
    noise = change(RandCtNoise((30, 30), correlated_prob=0.5), constant(0.0, size=(32, 32)))
    correlated = neighbour_correlation(noise) > 0.33
    assert float(correlated.float().mean()) == pytest.approx(0.5, abs=0.07)
    for kind, expected in ((correlated, 2 / 3), (~correlated, 0.0)):
        assert float(noise[kind].std()) == pytest.approx(30, rel=0.03)
        assert float(noise[kind][..., 0].std()) == pytest.approx(30, rel=0.06)  # the border too
        assert float(neighbour_correlation(noise[kind]).mean()) == pytest.approx(expected, abs=0.03)


def test_noise_of_channels_and_samples_is_independent():
    noise = change(RandCtNoise((30, 30), correlated_prob=0.0), constant(0.0, count=4, channels=3, size=(64, 64)))
    correlations = torch.corrcoef(noise.reshape(12, -1)) - torch.eye(12)
    assert float(correlations.abs().max()) < 0.08


def test_noise_can_be_left_out_of_samples():
    noise = change(RandCtNoise((30, 30), prob=0.3), constant(0.0))
    assert float((noise.abs().flatten(1).max(1).values > 1e-2).float().mean()) == pytest.approx(0.3, abs=0.07)


def test_thick_slices_mix_the_channels_with_their_mean():
    image = constant(0.0, channels=5) + torch.tensor([0.0, 100, 200, 300, 400]).view(1, 5, 1, 1)
    new = change(RandThickSlices(prob=0.4, mix=0.5), image)[:, :, 0, 0]
    mixes = new[:, 0] / 200
    changed = mixes[mixes > 1e-4]
    assert len(changed) / 400 == pytest.approx(0.4, abs=0.07)
    assert 0.47 < changed.max() < 0.501
    assert float(changed.mean()) == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(new[:, 2], torch.full((400,), 200.0), atol=0.05, rtol=0)
    torch.testing.assert_close(new[:, 4], 400 - new[:, 0], atol=0.05, rtol=0)


def test_channels_outside_the_scan_take_no_part_in_the_mean():
    image = torch.full((20, 3, 8, 8), 0.6)
    image[:, 0] = -1.0
    new = BatchRandomisation([RandThickSlices(prob=1.0)]).randomise(image, torch.ones(20, 1, 8, 8), range(20))[0]
    torch.testing.assert_close(new, image.clamp(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_dropped_channels_are_the_centre_slice(channels):
    image = constant(0.0, channels=channels) + 100 * torch.arange(channels).view(1, channels, 1, 1)
    new = change(RandDropChannels(prob=0.5, channel_prob=0.4), image)
    centre = channels // 2
    dropped = ((new - image).abs() > 1).flatten(2).any(2)
    assert not dropped[:, centre].any()
    for channel in {*range(channels)} - {centre}:
        assert float(dropped[:, channel].float().mean()) == pytest.approx(0.2, abs=0.06)
        assert (new[dropped[:, channel], channel] - image[0, centre]).abs().max() < 0.05


def test_dropped_channels_have_the_mask_of_the_centre_slice():
    image = torch.full((50, 3, 8, 8), 0.6)
    image[:, 0], image[:, 1, :4] = -1.0, -1.0
    transform = RandDropChannels(prob=1.0, channel_prob=0.5)
    new, label = BatchRandomisation([transform]).randomise(image, torch.ones(50, 1, 8, 8), range(50))
    assert (label[:, :, :4] == 255).all()
    assert (label[:, :, 4:] == 1).all()
    lower = new[:, 0, 6, 6]
    assert 0.3 < float((lower > 0.5).float().mean()) < 0.7
    assert set((new[:, 0, 1] > 0).flatten().tolist()) == {False}


def test_gamma_is_log_uniform_and_keeps_the_ends_of_the_window():
    image = torch.full((400, 1, 4, 4), 0.5)
    image[:, :, 0], image[:, :, 1], image[:, :, 2] = 0.0, 1.2, -0.2
    new = BatchRandomisation([RandGamma(0.35)]).randomise(image, torch.ones(400, 1, 4, 4), range(400))[0]
    logs = (new[:, 0, 3, 0].log() / log(0.5)).log()
    assert 0.33 < logs.abs().max() < 0.3501
    assert float(logs.std()) == pytest.approx(0.35 / 3**0.5, rel=0.1)
    assert abs(float(logs.mean())) < 0.03
    assert new[:, :, [0, 2]].abs().max() < 1e-6
    assert (new[:, :, 1] - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandCtNoise((0.0, 90)), r"RandCtNoise: hu=\(0\.0, 90\); must be two finite numbers"),
        (lambda: RandCtNoise((90, 4)), "the smaller first"),
        (lambda: RandCtNoise(correlated_prob=1.1), r"correlated_prob=1\.1; must be a probability"),
        (lambda: RandThickSlices(mix=1.5), r"RandThickSlices: mix=1\.5"),
        (lambda: RandDropChannels(channel_prob=-0.1), r"RandDropChannels: channel_prob=-0\.1"),
        (lambda: RandGamma(-0.3), r"RandGamma: log_range=-0\.3"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
