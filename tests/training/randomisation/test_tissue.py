# SPDX-License-Identifier: Apache-2.0
"""Random bone and soft tissue: distributions of the drawn values, and the tissue that they change."""

from __future__ import annotations

import pytest
import torch
from randomised import change, constant
from scripts.training.randomisation.tissue import RandBoneDensity, RandSoftTissue, bone_mask


def test_bone_mask_separates_soft_tissue_from_bone():
    hu = torch.tensor([-100.0, 40.0, 180.0, 300.0, 900.0])
    torch.testing.assert_close(bone_mask(hu), torch.tensor([0.0093, 0.0884, 0.5, 0.8808, 1.0]), atol=1e-4, rtol=0)
    assert float(hu[2]) == 180  # the input is kept


def test_density_factors_are_uniform_and_of_the_given_share():
    new = change(RandBoneDensity(prob=0.6, factor=(0.7, 1.35)), constant(1000.0))[:, 0, 0, 0]
    factors = (new - 100) / 900
    changed = factors[(factors - 1).abs() > 1e-4]
    assert len(changed) / 400 == pytest.approx(0.6, abs=0.07)
    assert 0.7 - 1e-3 < changed.min() < 0.72
    assert 1.33 < changed.max() < 1.35 + 1e-3
    assert float(changed.mean()) == pytest.approx(1.025, abs=0.04)
    assert float(changed.std()) == pytest.approx(0.65 / 12**0.5, rel=0.1)


def test_density_keeps_soft_tissue():
    transform = RandBoneDensity(prob=1.0)
    for hu, largest in ((-100.0, 1.0), (40.0, 2.0), (100.0, 1e-3)):
        assert float((change(transform, constant(hu)) - hu).abs().max()) < largest


def test_soft_tissue_is_shifted_and_stretched():
    transform = RandSoftTissue(prob=0.5, shift=60, stretch=0.4)
    shifts = change(transform, constant(0.0))[:, 0, 0, 0] / (1 - bone_mask(torch.zeros(())))
    changed = shifts[shifts.abs() > 1e-2]
    assert len(changed) / 400 == pytest.approx(0.5, abs=0.07)
    assert 58 < changed.abs().max() < 60.01
    assert float(changed.std()) == pytest.approx(60 / 3**0.5, rel=0.12)
    # At -100 HU the same shift and -100 times the stretch.
    fat = (change(transform, constant(-100.0))[:, 0, 0, 0] + 100) / (1 - bone_mask(torch.tensor(-100.0)))
    stretches = ((fat - shifts) / -100)[shifts.abs() > 1e-2]
    assert 0.37 < stretches.abs().max() < 0.401
    assert abs(float(torch.corrcoef(torch.stack([stretches, changed]))[0, 1])) < 0.2


def test_soft_tissue_keeps_dense_bone():
    assert float((change(RandSoftTissue(prob=1.0), constant(700.0)) - 700).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandBoneDensity(prob=1.2), r"RandBoneDensity: prob=1\.2"),
        (lambda: RandBoneDensity(factor=(1.3, 0.7)), r"factor=\(1\.3, 0\.7\); must be two finite numbers, the smaller first"),
        (lambda: RandBoneDensity(factor=(1.0,)), "factor="),
        (lambda: RandSoftTissue(shift=-5), "RandSoftTissue: shift=-5"),
        (lambda: RandSoftTissue(stretch=float("inf")), "stretch=inf"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
