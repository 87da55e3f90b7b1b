# SPDX-License-Identifier: Apache-2.0
"""Random fields: deviation, smoothness, the tissue that they change."""

from __future__ import annotations

import pytest
import torch
from randomised import change, constant
from scripts.training.randomisation.texture import RandBiasField, RandBoneTexture


def correlation(field: torch.Tensor, lag: int) -> float:
    """Return the correlation of fields (B, 1, H, W) with themselves ``lag`` voxels further."""
    first, second = field[..., :-lag].flatten(), field[..., lag:].flatten()
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


@pytest.mark.parametrize(
    ("transform", "hu", "near", "far"),
    [(RandBiasField(prob=1.0, hu=50), 0.0, 4, 48), (RandBoneTexture(prob=1.0, hu=50), 1500.0, 1, 12)],
    ids=["bias", "texture"],
)
def test_fields_are_smooth_at_their_spacing(transform, hu, near, far):
    image = constant(hu, count=250, channels=2, size=(64, 80))
    field = change(transform, image) - image
    torch.testing.assert_close(field[:, 0], field[:, 1])  # one field for all channels
    assert correlation(field[:, :1], near) > 0.8
    assert abs(correlation(field[:, :1], far)) < 0.1
    # Control points have a deviation uniform from 0 to 50 HU. PyTorch's bicubic kernel (a = -0.75) keeps 6/7 of it:
    # the mean of the sum of squared weights is 6/7 along each axis. It is more at the border, where control points repeat.
    inner = field[:, 0, 8:-8, 8:-8]
    assert float(inner.square().mean().sqrt()) == pytest.approx(6 / 7 * 50 / 3**0.5, rel=0.15)
    assert abs(float(field.mean())) < 4


@pytest.mark.parametrize("transform", [RandBiasField(prob=0.5), RandBoneTexture(prob=0.5)], ids=["bias", "texture"])
def test_probability_is_the_share_of_changed_samples(transform):
    image = constant(1000.0, size=(16, 16))
    changed = (change(transform, image) - image).abs().flatten(1).max(1).values > 1e-3
    assert float(changed.float().mean()) == pytest.approx(0.5, abs=0.07)


def test_texture_is_of_bone_alone():
    image = constant(-100.0, count=40, size=(32, 32))
    image[..., 16:] = 800
    field = change(RandBoneTexture(prob=1.0), image) - image
    assert float(field[..., :16].std()) < 0.02 * float(field[..., 16:].std())


def test_small_and_odd_sizes():
    for size in ((1, 1), (3, 50), (17, 16)):
        for transform in (RandBiasField(prob=1.0), RandBoneTexture(prob=1.0)):
            assert change(transform, constant(500.0, count=2, size=size)).isfinite().all()


@pytest.mark.parametrize("spacing", [0.5, float("nan")])
def test_bad_arguments_are_refused(spacing):
    with pytest.raises(ValueError, match="RandBiasField: spacing="):
        RandBiasField(spacing=spacing)
    with pytest.raises(ValueError, match="RandBoneTexture: hu=-1"):
        RandBoneTexture(hu=-1)
