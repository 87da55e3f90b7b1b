# SPDX-License-Identifier: Apache-2.0
"""Random field of view and value outside a scan: their distributions, image and label, bad arguments."""

from __future__ import annotations

import pytest
import torch
from randomised import slices
from scripts.training.randomisation.batch import BatchRandomisation
from scripts.training.randomisation.field_of_view import RandFieldOfView, RandOutsideValue


def extents(transform: RandFieldOfView, count: int = 400) -> torch.Tensor:
    """Return the shares (count, 2) of rows and columns that are in the field of view."""
    image, label = torch.rand(count, 3, 100, 80), torch.ones(count, 1, 100, 80)
    inside = BatchRandomisation([transform]).randomise(image, label, range(count))[1][:, 0] != 255
    return torch.stack([inside.any(2).float().mean(1), inside.any(1).float().mean(1)], dim=1)


def test_sizes_are_uniform_between_their_limits():
    shares = extents(RandFieldOfView(size=(0.4, 0.8), prob=1.0))
    assert shares.min() >= 0.38
    assert shares.max() <= 0.82
    assert shares.mean(0).tolist() == pytest.approx([0.6, 0.6], abs=0.02)
    assert shares.std(0).tolist() == pytest.approx([0.4 / 12**0.5] * 2, abs=0.015)
    assert abs(torch.corrcoef(shares.T)[0, 1]) < 0.15


def test_the_box_is_everywhere_equally():
    image, label = torch.rand(600, 1, 40, 40), torch.ones(600, 1, 40, 40)
    inside = BatchRandomisation([RandFieldOfView(size=(0.5, 0.5), prob=1.0)]).randomise(image, label, range(600))[1] != 255
    share = inside.float().mean((0, 1))
    assert torch.allclose(share, share.flip(0), atol=0.08)
    assert torch.allclose(share, share.flip(1), atol=0.08)
    assert share[20, 20] > 0.9
    assert share[0, 0] < 0.05


def test_the_fraction_of_changed_samples_is_the_probability():
    shares = extents(RandFieldOfView(size=(0.3, 0.5), prob=0.4))
    whole = (shares == 1).all(1).float().mean()
    assert float(whole) == pytest.approx(0.6, abs=0.08)
    assert (extents(RandFieldOfView(prob=0.0), 20) == 1).all()


def test_outside_is_blank_without_loss_and_inside_is_unchanged():
    image, label = slices(count=16)
    plain, codes = BatchRandomisation().randomise(image, label, range(16))
    new, ignored = BatchRandomisation([RandFieldOfView(prob=1.0)]).randomise(image, label, range(16))
    outside = (ignored == 255) & (codes != 255)
    assert outside.any()
    assert (new[outside.expand_as(new)] == 0).all()
    inside = (ignored != 255).expand_as(new)
    assert torch.allclose(new[inside], plain[inside], atol=1e-6)
    assert torch.equal(ignored[ignored != 255], codes[ignored != 255])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"size": (0.5, 1.5)}, r"RandFieldOfView: size=\[0\.5, 1\.5\]; must be shares"),
        ({"size": (0.0, 1.0)}, r"RandFieldOfView: size=\(0\.0, 1\.0\); must be two"),
        ({"size": (0.9, 0.5)}, "the smaller first"),
        ({"prob": 1.5}, r"RandFieldOfView: prob=1\.5; must be a probability"),
    ],
)
def test_bad_arguments_are_refused(arguments, line):
    with pytest.raises(ValueError, match=line):
        RandFieldOfView(**arguments)


def outside_values(transform: RandOutsideValue, outside_hu: float | None = None, count: int = 600) -> torch.Tensor:
    """Return the HU (count,) outside the scan."""
    image, label = torch.full((count, 2, 4, 5), 0.5), torch.zeros(count, 1, 4, 5)
    image[:, :, :2] = -1.0
    new, _ = BatchRandomisation([transform], outside_hu=outside_hu).randomise(image, label, range(count))
    assert torch.allclose(new[:, :, 2:], torch.tensor(0.5))
    outside = new[:, :, :2].flatten(1)
    assert torch.equal(outside, outside[:, :1].expand_as(outside))
    return outside[:, 0] * 1200 - 200


def test_values_outside_are_uniform_between_their_limits():
    values = outside_values(RandOutsideValue(hu=(-150.0, 90.0), prob=1.0))
    assert values.min() >= -150.01
    assert values.max() <= 90.01
    assert float(values.mean()) == pytest.approx(-30, abs=10)
    assert float(values.std()) == pytest.approx(240 / 12**0.5, abs=5)


@pytest.mark.parametrize(("outside_hu", "expected"), [(None, -200.0), (40.0, 40.0), (-3000.0, -200.0)])
def test_samples_without_a_random_value_have_that_of_the_batch(outside_hu, expected):
    values = outside_values(RandOutsideValue(hu=(50.0, 90.0), prob=0.3), outside_hu)
    same = (values - expected).abs() < 0.01
    assert float(same.float().mean()) == pytest.approx(0.7, abs=0.06)
    assert (values[~same] > 49.9).all()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"hu": (100.0, -200.0)}, r"RandOutsideValue: hu=\(100\.0, -200\.0\); must be two finite numbers, the smaller first"),
        ({"hu": (-2000.0, 0.0)}, "of at least -1024"),
        ({"prob": -1}, r"RandOutsideValue: prob=-1; must be a probability"),
    ],
)
def test_bad_values_outside_are_refused(arguments, line):
    with pytest.raises(ValueError, match=line):
        RandOutsideValue(**arguments)
