# SPDX-License-Identifier: Apache-2.0
"""HU statistics: peaks of tissues, values that are no HU, noise that grows with the noise, ranges of the training."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import BUNDLE
from monai.bundle import ConfigParser
from scripts.evaluation.domain_hu import TRAINING, histogram, measure_hu, noise_std, tissue_peaks
from scripts.evaluation.domain_perturbations import add_noise


def patient(noise: float = 12.0, air: bool = True, shape=(60, 60, 40), seed: int = 0) -> np.ndarray:
    """Muscle of 50 HU in fat of -100 HU in air of -1000 HU, with a bone of 300 HU."""
    volume = np.full(shape, -1000 if air else -100, np.int16)
    volume[6:-6, 6:-6] = -100
    volume[14:-14, 14:-14] = 50
    volume[26:34, 26:34] = 300
    return add_noise(volume, noise, seed=seed)


def test_peaks_of_tissues():
    assert tissue_peaks(patient()) == pytest.approx((-1000, -100, 50), abs=8)


def test_a_crop_without_air_or_fat_has_no_such_peak():
    air, fat, soft = tissue_peaks(add_noise(np.full((40, 40, 20), 45, np.int16), 15.0))
    assert np.isnan([air, fat]).all()
    assert soft == pytest.approx(45, abs=8)


@pytest.mark.parametrize("air", [True, False])
def test_hu_plus_1024_has_its_peak_elsewhere(air):
    """Also where air then lies in the window of muscle."""
    _, _, soft = tissue_peaks((patient(air=air) + 1024).astype(np.int16))
    assert soft > 600


def test_padding_is_no_air():
    volume = add_noise(np.full((40, 40, 20), 45, np.int16), 15.0)
    volume[:10] = -2000
    assert np.isnan(tissue_peaks(volume)[0])


def test_an_empty_histogram_has_no_peak():
    empty = np.full((20, 20, 20), -3000, np.int16)
    assert histogram(empty)[1].sum() == 0
    assert np.isnan(tissue_peaks(empty)).all()
    assert np.isnan(noise_std(empty))


@pytest.mark.parametrize("correlation", [0.0, 1.3])
@pytest.mark.parametrize("seed", range(3))
def test_more_noise_is_never_reported_as_less(correlation, seed):
    base = patient(5.0, seed=seed)
    measured = [noise_std(add_noise(base, std, correlation, seed + 10)) for std in (0, 5, 10, 20, 30, 45, 60, 90)]
    assert (np.diff(measured) > 0).all(), measured


@pytest.mark.parametrize("std", [8.0, 30.0, 60.0])
def test_white_noise_is_measured_within_a_fifth(std):
    assert noise_std(patient(std)) == pytest.approx(std, rel=0.2)


def test_noise_is_measured_across_the_coarsest_voxels():
    """Interpolated slices are smoother than the stored ones, whose plane is therefore used."""
    volume = patient(20.0)
    volume[1::2] = ((volume[0::2].astype(int) + np.roll(volume[0::2], -1, axis=0)) / 2).astype(np.int16)
    statistics = measure_hu(volume, None, [], (3.0, 1.0, 1.0))
    assert statistics.noise == noise_std(volume, 0)
    assert statistics.noise == pytest.approx(20.0, rel=0.3)
    assert measure_hu(volume, None, [], (1.0, 1.0, 1.0)).noise == noise_std(volume, 2)


def test_sizes_and_bone():
    s = measure_hu(patient(), np.arange(1000), [100.0, np.nan, 140.0], (0.8, 3.0, 0.9))
    assert (s.in_plane_mm, s.slices_mm) == (0.9, 3.0)
    assert s.trabecular == 120
    assert s.bone == pytest.approx(989, abs=2)
    assert np.isnan(measure_hu(patient(), None, [np.nan], (1, 1, 1)).trabecular)


def test_ranges_are_those_of_the_randomisation():
    path = BUNDLE / "configs" / "randomisation.yaml"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in this version")
    steps = {s["_target_"].rpartition(".")[2]: s for s in ConfigParser.load_config_file(str(path))["randomisation"]}
    assert [TRAINING["noise"].low, TRAINING["noise"].high] == steps["RandCtNoise"]["hu"]
    low, high = steps["RandBoneDensity"]["factor"]
    assert TRAINING["trabecular HU"].low == pytest.approx(35 * low, abs=1)
    assert TRAINING["trabecular HU"].high == pytest.approx(260 * high, abs=1)
    assert TRAINING["distance of slices"].high <= 1.5 * steps["RandThickInPlane"]["voxels"][1]
