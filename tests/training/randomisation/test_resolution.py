# SPDX-License-Identifier: Apache-2.0
"""Random sharpness and thick slices in the plane: widths, axes, sums, borders."""

from __future__ import annotations

import pytest
import torch
from randomised import change, constant
from scripts.training.randomisation.batch import BatchRandomisation
from scripts.training.randomisation.resolution import RandSharpness, RandThickInPlane, neighbourhood_sum
from torch.nn import functional


def point(count: int = 400) -> torch.Tensor:
    """Return images of 0 HU with one voxel of 1000 HU."""
    image = constant(0.0, count=count, size=(15, 17))
    image[:, :, 7, 8] = 1000
    return image


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 9)])
def test_neighbourhood_sum_equals_that_of_pooling(size):
    image = torch.rand(2, 3, *size)
    torch.testing.assert_close(neighbourhood_sum(image), 9 * functional.avg_pool2d(image, 3, stride=1, padding=1))


def test_sharpness_has_the_given_amounts():
    new = change(RandSharpness(prob=0.5, amount=0.9), point())
    amounts = (new[:, 0, 7, 8] / 1000 - 1) * 9 / 8
    changed = amounts[amounts.abs() > 1e-4]
    assert len(changed) / 400 == pytest.approx(0.5, abs=0.07)
    assert -0.901 < changed.min() < -0.87
    assert 0.87 < changed.max() < 0.901
    assert float(changed.std()) == pytest.approx(0.9 / 3**0.5, rel=0.1)
    torch.testing.assert_close(new.sum((1, 2, 3)), point().sum((1, 2, 3)), atol=0.5, rtol=0)


def test_widths_of_thick_slices_are_uniform():
    new = change(RandThickInPlane(prob=0.25, voxels=(1.5, 3.5)), point())[:, 0]
    widths = 1000 / new[:, 7, 8]
    changed = widths[widths > 1.01]
    assert len(changed) / 400 == pytest.approx(0.25, abs=0.06)
    assert 1.49 < changed.min() < 1.7
    assert 3.3 < changed.max() < 3.51
    assert float(changed.mean()) == pytest.approx(2.5, abs=0.2)
    along = ((new > 1).sum((1, 2)) > 1) & ((new[:, :, 8] > 1).sum(1) > 1)
    assert float(along[widths > 1.01].float().mean()) == pytest.approx(0.5, abs=0.15)
    torch.testing.assert_close(new.sum((1, 2)), torch.full((400,), 1000.0), atol=0.5, rtol=0)


@pytest.mark.parametrize(
    ("width", "box"),
    [
        (1.0, [0, 0, 1, 0, 0]),
        (2.0, [0, 0.25, 0.5, 0.25, 0]),
        (3.0, [0, 1 / 3, 1 / 3, 1 / 3, 0]),
        (4.0, [1 / 8, *[1 / 4] * 3, 1 / 8]),
    ],
)
def test_box_has_the_width_along_one_axis(width, box):
    new = change(RandThickInPlane(prob=1.0, voxels=(width, width)), point(8))[:, 0] / 1000
    expected = torch.tensor(box, dtype=torch.float32)
    for image in new:
        lines = image[5:10, 8], image[7, 6:11]
        assert any(torch.allclose(line, expected, atol=1e-3) for line in lines)
        assert int((image > 1e-3).sum()) == int((expected > 0).sum())


@pytest.mark.parametrize("transform", [RandSharpness(prob=1.0), RandThickInPlane(prob=1.0)], ids=["sharpness", "thick"])
def test_uniform_tissue_is_unchanged_up_to_borders_and_blanks(transform):
    image, label = torch.full((16, 2, 20, 20), 0.7), torch.ones(16, 1, 20, 20)
    image[:, :, 3:6, 4:12] = -1.0
    image[:, 1, 12:] = -1.0
    new = BatchRandomisation([transform]).randomise(image, label, range(16))[0]
    torch.testing.assert_close(new, image.clamp(0), atol=1e-5, rtol=0)


def test_boxes_larger_than_the_image():
    image = constant(300.0, count=3, size=(2, 1))
    torch.testing.assert_close(change(RandThickInPlane(prob=1.0, voxels=(9, 9)), image), image, atol=0.1, rtol=0)


@pytest.mark.parametrize("voxels", [(0.5, 2), (3, 2), (2,), (1, float("inf"))])
def test_bad_arguments_are_refused(voxels):
    with pytest.raises(ValueError, match=r"RandThickInPlane: voxels=.*must be two finite numbers"):
        RandThickInPlane(voxels=voxels)
    with pytest.raises(ValueError, match="RandSharpness: amount=-1"):
        RandSharpness(amount=-1)
