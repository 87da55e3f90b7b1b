# SPDX-License-Identifier: Apache-2.0
"""Values that are no HU are refused by their histogram; real HU of any crop, noise and padding are not."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.io.hu_check import ValueHistogram, value_problems

COUNT = 200_000


def patient(air: float = 0.4, noise: float = 15.0, bone: float = 0.12, seed: int = 0) -> np.ndarray:
    """HU of air, lung at its surface, fat, muscle and bone in random order, as a volume (K, J, I)."""
    rng = np.random.default_rng(seed)
    tissue = np.array([0.35, 1 - 0.35 - bone, bone]) * (1 - air)
    numbers = rng.multinomial(COUNT, [0.9 * air, 0.1 * air, *tissue])
    parts = [
        np.full(numbers[0], -1000.0),
        rng.uniform(-900, -200, numbers[1]),
        rng.normal(-100, 15, numbers[2]),
        rng.normal(50, 15, numbers[3]),
        100 + rng.exponential(200, numbers[4]),
    ]
    hu = rng.permutation(np.concatenate(parts)) + rng.normal(0, noise, COUNT)
    return np.rint(hu).reshape(20, 100, 100)


def problems(data: np.ndarray) -> list[tuple[str, str]]:
    histogram = ValueHistogram(data.size)
    for slab in np.array_split(np.clip(np.rint(data), -32768, 32767).astype(np.int16), 3):
        histogram.add(slab)
    found = value_problems(histogram)
    assert all("\n" not in p.message for p in found)
    return [(p.severity, p.code) for p in found]


@pytest.mark.parametrize("air", [0.0, 0.05, 0.4, 0.85])
@pytest.mark.parametrize("noise", [3.0, 15.0, 60.0])
def test_hu_have_no_problem(air, noise):
    hu = patient(air, noise)
    padded = np.where(np.arange(20)[:, None, None] < 4, -2000, hu)
    metal = hu.copy()
    metal.ravel()[::500] = 3071
    for data in (hu, padded, metal, np.clip(hu, -1024, 1500), np.clip(hu, -200, 1000)):
        assert problems(data) == []


CHANGES = {
    "plus 1024": (lambda hu: hu + 1024, "offset"),
    "plus 1000": (lambda hu: hu + 1000, "offset"),
    "minus 1024": (lambda hu: hu - 1024, "offset"),
    "plus 1024, padding": (lambda hu: np.where(np.arange(20)[:, None, None] < 4, -2000, hu + 1024), "offset"),
    "divided by 10": (lambda hu: hu / 10, "scaled"),
    "divided by 10, clipped": (lambda hu: np.clip(hu, -200, 300) / 10, "scaled"),
    "times 10": (lambda hu: hu * 10, "scaled"),
    "z-scores": (lambda hu: (hu - hu.mean()) / hu.std(), "rescaled"),
    "0 to 1": (lambda hu: (np.clip(hu, -200, 1000) + 200) / 1200, "rescaled"),
    "inverted": (lambda hu: -hu, "inverted"),
    "inverted plus 1024": (lambda hu: 1024 - hu, "inverted"),
    "window of 8 bits": (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255), "8-bit"),
    "beyond the range": (lambda hu: hu + 32768, "no-tissue"),
    "clipped at 0": (lambda hu: np.clip(hu, 0, 400) + np.where(hu > 0, 0, np.abs(hu) / 50), "no-negative"),
}


@pytest.mark.parametrize("air", [0.0, 0.4])
@pytest.mark.parametrize("change", CHANGES)
def test_other_values_are_errors_with_their_cause(change, air):
    function, code = CHANGES[change]
    assert problems(function(patient(air))) == [("error", code)]


def test_the_result_depends_on_no_order_of_voxels():
    data = patient() + 1024
    assert problems(np.sort(data.ravel()).reshape(data.shape)) == problems(data)


def test_suspicious_hu_are_warnings():
    hu = patient()
    assert problems(np.where(hu > 120, 50, hu)) == [("warning", "no-bone")]
    assert problems(np.clip(hu, -1024, 250)) == [("warning", "clipped")]
    masked = hu.copy()
    masked[:6] = 0
    assert problems(masked) == [("warning", "padding")]


def test_few_voxels_have_only_their_range_checked():
    for low, high, codes in ((-1000, 1500, []), (0, 255, ["8-bit"]), (-1, 1, ["rescaled"]), (900, 1400, [])):
        assert [code for _, code in problems(np.linspace(low, high, 50).reshape(5, 5, 2))] == codes


def test_large_volumes_are_sampled_across_every_column():
    histogram = ValueHistogram(9_000_000)
    slab = np.tile(np.arange(100, dtype=np.int16), (10, 300, 1))
    histogram.add(slab)
    assert (histogram.low, histogram.high) == (0, 99)
    counted = histogram.counts[32768 : 32768 + 100]
    assert counted.sum() == histogram.counts.sum() <= slab.size / 2
    assert counted.min() > 0.9 * counted.mean()
