# SPDX-License-Identifier: Apache-2.0
"""The working grid equals that of MONAI's Orientation and Spacing, and so does resampling to and fro, in all 48 orientations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing, SpatialResample
from scipy.spatial.transform import Rotation
from scripts.io.resample import restore, sample
from scripts.io.working_grid import Taps, WorkingGrid

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def oblique(permutation, signs, seed: int):
    rng = np.random.default_rng(seed)
    shape, spacing = tuple(int(n) for n in rng.integers(9, 20, 3)), rng.uniform(0.4, 3, 3)
    matrix = np.zeros((3, 3))
    for axis in range(3):
        matrix[permutation[axis], axis] = signs[axis]
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", rng.uniform(-12, 12, 3), degrees=True).as_matrix()
    affine[:3, :3] = rotation @ matrix * spacing
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return rng, shape, affine


@pytest.mark.parametrize("number", range(len(ORIENTATIONS)))
def test_sampling_and_restoring_equal_monai(number):
    rng, shape, affine = oblique(*ORIENTATIONS[number], seed=number)
    data, spacing = rng.integers(-500, 500, shape).astype(np.int16), (1.0, 1.3, 0.8)
    grid = WorkingGrid.plan(shape, affine, spacing)
    image = MetaTensor(torch.from_numpy(data)[None].float(), affine=torch.from_numpy(affine))
    expected = Spacing(spacing, mode="bilinear")(Orientation("RAS", labels=None)(image))
    assert grid.shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(grid.affine, expected.affine.numpy(), atol=1e-4)
    stored = np.ascontiguousarray(data.transpose(2, 1, 0))
    sampled = sample(lambda a, b: stored[a:b], grid, [np.arange(n) for n in grid.shape])
    assert np.abs(sampled - expected[0].numpy()).max() <= 0.501  # rounded to whole HU

    probability = rng.random(grid.shape).astype(np.float16)
    restored = SpatialResample(mode="bilinear", padding_mode="border")(
        MetaTensor(torch.from_numpy(probability.astype(np.float32))[None], affine=expected.affine),
        dst_affine=torch.from_numpy(affine),
        spatial_size=shape,
    )[0].numpy()
    full = np.zeros(stored.shape, np.float32)
    for k, box, values, _ in restore(probability, (0, 0, 0), grid):
        full[k][box] = values
    np.testing.assert_allclose(full.transpose(2, 1, 0), restored, atol=1e-5)


def test_sampling_a_subset_equals_the_subset_of_the_whole():
    rng, shape, affine = oblique(*ORIENTATIONS[17], seed=3)
    stored = rng.integers(-500, 500, shape[::-1]).astype(np.int16)
    grid = WorkingGrid.plan(shape, affine, (0.7, 1.1, 2.0))
    whole = sample(lambda a, b: stored[a:b], grid, [np.arange(n) for n in grid.shape])
    chosen = [np.sort(rng.choice(n, max(n // 3, 1), replace=False)) for n in grid.shape]
    part = sample(lambda a, b: stored[a:b], grid, chosen)
    assert np.abs(part - whole[np.ix_(*chosen)]).max() <= 1


def test_restoring_a_box_equals_restoring_the_whole():
    rng, shape, affine = oblique(*ORIENTATIONS[30], seed=5)
    grid = WorkingGrid.plan(shape, affine, (1.2, 0.9, 1.5))
    whole = np.zeros(grid.shape, np.float16)
    box = tuple(slice(n // 4, max(3 * n // 4, n // 4 + 1)) for n in grid.shape)
    whole[box] = rng.random(whole[box].shape)
    results = []
    for volume, origin in ((whole, (0, 0, 0)), (whole[box], [s.start for s in box])):
        full = np.zeros(shape[::-1], np.float32)
        for k, region, values, _ in restore(volume, origin, grid):
            full[k][region] = values
        results.append(full)
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_negative_and_nearly_equal_spacing_keep_the_scan():
    affine = np.diag([0.9996, 2.0, 3.0, 1.0])
    grid = WorkingGrid.plan((10, 11, 12), affine, (1.0, -1, -1))
    assert grid.shape == (10, 11, 12)
    assert grid.steps == (1.0, 1.0, 1.0)
    assert grid.spacing == pytest.approx((0.9996, 2.0, 3.0))


def test_taps_stay_inside_and_interpolate_the_position():
    taps = Taps.at(np.array([-2.0, 0.0, 3.25, 8.9, 20.0]), 9)
    position = taps.low * (1 - taps.weight) + taps.high * taps.weight
    np.testing.assert_allclose(position, [0, 0, 3.25, 8, 8], atol=1e-6)
