# SPDX-License-Identifier: Apache-2.0
"""Random field of view: distribution of its size, mask, label and image outside it, bad arguments."""

from __future__ import annotations

import pytest
import torch
from randomised import slices
from scripts.training.randomisation.batch import BatchRandomisation
from scripts.training.randomisation.field_of_view import RandFieldOfView


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
