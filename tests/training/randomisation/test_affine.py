# SPDX-License-Identifier: Apache-2.0
"""Random affine of batches: measured angles and sizes, image with label and mask, mirroring, canvas and patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from randomised import change, slices
from scripts.training.randomisation.batch import BatchRandomisation
from scripts.training.randomisation.geometry import RandBatchAffine

STILL: dict[str, Any] = {"rotate_std": 0.0, "scale_std": 0.0, "anisotropy_std": 0.0, "shear_std": 0.0, "flip_prob": 0.0}
COUNT = 300


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre (2,) and covariance (2, 2) of the weights of an image, voxels."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij"), -1).reshape(-1, 2)
    weights = image.reshape(-1) / image.sum()
    centre = weights @ grid
    return centre, np.einsum("n,ni,nj->ij", weights, grid - centre, grid - centre)


def drawn_ellipses(**arguments) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the moments of a long Gaussian ellipse in the middle of every canvas after the transform."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(72) - 35.5, indexing="ij")
    ellipse = (1000 * torch.exp(-0.5 * ((y / 7) ** 2 + (x / 3) ** 2))).expand(COUNT, 1, 64, 72)
    new = change(RandBatchAffine(**{**STILL, **arguments}), ellipse).numpy()[:, 0]
    return [moments(np.clip(image, 0, None)) for image in new]  # blank corners hold the lowest value


def test_angle_has_the_given_deviation():
    angles = [0.5 * np.arctan2(2 * c[0, 1], c[0, 0] - c[1, 1]) for _, c in drawn_ellipses(rotate_std=0.17)]
    assert np.std(angles) == pytest.approx(0.17, rel=0.15)
    assert abs(np.mean(angles)) < 3 * 0.17 / COUNT**0.5


def test_size_has_the_given_deviation():
    covariances = [c for _, c in drawn_ellipses(scale_std=0.1)]
    first, second = (np.log([c[axis, axis] ** 0.5 / deviation for c in covariances]) for axis, deviation in ((0, 7), (1, 3)))
    assert np.std(first) == pytest.approx(0.1, rel=0.15)
    assert abs(np.mean(first)) < 3 * 0.1 / COUNT**0.5
    np.testing.assert_allclose(first, second, atol=0.02)  # both axes have one magnification


def test_anisotropy_is_of_each_axis():
    covariances = [c for _, c in drawn_ellipses(anisotropy_std=0.06)]
    logs = np.log([[c[0, 0] ** 0.5 / 7, c[1, 1] ** 0.5 / 3] for c in covariances])
    np.testing.assert_allclose(logs.std(axis=0), 0.06, rtol=0.15)
    assert abs(np.corrcoef(logs.T)[0, 1]) < 0.2


def test_shear_tilts_one_axis_against_the_other():
    # Offsets y' = y - shear * x of the ellipse: the covariance of both is -shear * variance of x.
    shears = [-c[0, 1] / c[1, 1] for _, c in drawn_ellipses(shear_std=0.06)]
    assert np.std(shears) == pytest.approx(0.06, rel=0.15)


def test_translation_is_uniform_within_its_range():
    centres = np.array([c for c, _ in drawn_ellipses(translate=(8, 4))]) - [31.5, 35.5]
    for axis, largest in ((0, 8), (1, 4)):
        assert 0.95 * largest < np.abs(centres[:, axis]).max() < largest + 0.05
        assert np.std(centres[:, axis]) == pytest.approx(largest / 3**0.5, rel=0.1)


def test_probability_is_the_share_of_moved_samples():
    moved = drawn_ellipses(rotate_std=0.17, prob=0.4, translate=(5, 5))
    assert np.mean([abs(c[0, 1]) > 1e-2 for _, c in moved]) == pytest.approx(0.4, abs=0.1)
    assert np.std([centre[0] for centre, _ in moved]) == pytest.approx(5 / 3**0.5, rel=0.15)  # the patch is moved in all


def test_without_randomness_the_patch_is_the_centre():
    image, label = slices()
    patch = BatchRandomisation([RandBatchAffine(**STILL, patch_size=(32, 40))]).randomise(image, label, range(4))
    crop = BatchRandomisation(patch_size=(32, 40)).randomise(image, label, range(4))
    torch.testing.assert_close(patch[0], crop[0], atol=1e-4, rtol=0)
    assert torch.equal(patch[1], crop[1])


def test_image_and_label_move_together():
    """An image made of the codes of its label: where neighbours are equal, both are still equal."""
    label = torch.zeros(16, 1, 48, 56)
    label[:, :, 10:34, 12:30], label[:, :, 20:40, 26:44] = 3, 6
    image = (label / 10).expand(-1, 3, -1, -1).clone()
    new, codes = BatchRandomisation([RandBatchAffine(patch_size=(40, 44), translate=(3, 3))]).randomise(image, label, range(16))
    inside = codes != 255
    equal = ((new - codes / 10).abs() < 0.003)[:, 1:2][inside].float().mean()
    assert set(codes.unique().tolist()) == {0, 3, 6, 255}
    assert float(equal) > 0.88  # the others lie on an edge, where linear and nearest interpolation differ
    edges = ((new - codes / 10).abs() < 0.46)[:, 1:2][inside]  # the nearest of four corners has a quarter of the weight at least
    assert edges.all()


def test_voxels_from_outside_the_canvas_are_ignored():
    image, label = torch.full((32, 3, 24, 24), 0.5), torch.ones(32, 1, 24, 24)
    new, codes = BatchRandomisation([RandBatchAffine(rotate_std=0.3)]).randomise(image, label, range(32))
    assert set(codes.unique().tolist()) == {1, 255}
    torch.testing.assert_close(new[:, 1:2], torch.where(codes == 255, 0.0, 0.5), atol=1e-3, rtol=0)


def test_mirroring_reverses_the_channels_of_half_the_samples():
    image = torch.arange(5.0).view(1, 5, 1, 1).expand(200, 5, 16, 16) / 5 + 0.1
    image = image.clone()
    image[:, 0] = -1.0
    label = torch.ones(200, 1, 16, 16)
    new = BatchRandomisation([RandBatchAffine(**{**STILL, "flip_prob": 0.5})]).randomise(image, label, range(200))[0]
    order = new[:, :, 8, 8]
    mirrored = order[:, 0] > order[:, 1]
    assert 0.4 < float(mirrored.float().mean()) < 0.6
    expected = image.clamp(0)[:1, :, 8, 8]
    torch.testing.assert_close(order[~mirrored], expected.expand(200, 5)[~mirrored], atol=1e-3, rtol=0)
    torch.testing.assert_close(order[mirrored], expected.flip(1).expand(200, 5)[mirrored], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotate_std": -0.1}, "rotate_std=-0.1; must be a finite number of at least 0"),
        ({"scale_std": float("nan")}, "scale_std=nan"),
        ({"flip_prob": 2}, "flip_prob=2; must be a probability"),
        ({"prob": -1}, "prob=-1; must be a probability"),
        ({"patch_size": (4, 4, 4)}, r"patch_size=\(4, 4, 4\).*2D"),
        ({"translate": (4,)}, r"translate=\(4,\).*2D"),
        ({"translate": (-1, 0)}, "translate=-1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandBatchAffine(**arguments)
