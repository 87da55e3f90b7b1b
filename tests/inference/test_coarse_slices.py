# SPDX-License-Identifier: Apache-2.0
"""Slices of the coarse pass that the fine pass uses: those whose windows cover its region without more borders."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeRunner, HuCodedOutputs
from scripts.inference.coarse_slices import CoarseSlices
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.inference.regions import RegionMap
from scripts.inference.windows import WindowGrid
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from spine_scene import affine_of, make_spine, save_nifti

GRID = WindowGrid.plan((60, 100), (32, 32), 0.25)


def region_of(rows: slice, columns: slice) -> RegionMap:
    mask = np.zeros((3, 60, 100), bool)
    mask[:, rows, columns] = True
    return RegionMap(mask, tuple(np.arange(float(n)) for n in mask.shape))


@pytest.mark.parametrize(
    ("coarse", "fine", "kept"),
    [
        ([(5, 5)], [(10, 10)], True),
        ([(0, 0), (5, 5)], [(10, 10), (11, 10)], True),
        ([(12, 5)], [(10, 10)], False),  # a row is outside
        ([(5, 5), (5, 20)], [(10, 10)], False),  # a border more
        ([(5, 5), (28, 60)], [(10, 10)], True),  # the second window is beside the region
        ([(5, 5)], [], False),  # not in the region
    ],
)
def test_slices_are_kept_that_need_no_other_windows(coarse, fine, kept):
    slices = CoarseSlices()
    slices.add(1, np.full((3, 60, 100), 0.25, np.float32), coarse)
    found = slices.of_region(region_of(slice(10, 30), slice(12, 36)), 0, GRID, {1: fine})
    assert list(found) == ([1] if kept else [])
    if kept:
        assert found[1].dtype == np.float16
        assert (found[1][:, 10:30, 12:36] == 0.25).all()
        assert not found[1][:, 50:].any()  # of windows beside the region


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_kept_slices_change_no_probability(tmp_path, monkeypatch, plane):
    spine = make_spine(4)
    path = save_nifti(tmp_path / "spine.nii.gz", spine.hu, affine_of(spine))
    header = read_header(path)
    scan, results, windows, regions = Scan(header, expect_hu=False), [], [], []
    for reuse in (True, False):
        runner = FakeRunner(HuCodedOutputs(4))
        kept: dict[int, np.ndarray] = {}

        def of_region(self, region, axis, grid, fine, original=CoarseSlices.of_region, reuse=reuse, kept=kept):
            regions.append(region)
            kept |= original(self, region, axis, grid, fine) if reuse else {}
            return kept

        monkeypatch.setattr(CoarseSlices, "of_region", of_region)
        pipeline = Pipeline({plane: [runner]}, PatchConfig((64, 64)), spacing=(2.0, 2.0, 2.0), coarse_mm=6.0)
        grid = pipeline.working_grid(header)
        results.append(pipeline(scan, grid))
        windows.append(runner.windows)
    assert results[0].origin == results[1].origin
    assert results[0].volume.any()
    mask, coordinates = regions[0].mask, regions[0].coordinates
    assert np.array_equal(mask, regions[1].mask)
    nearest = [np.searchsorted((c[1:] + c[:-1]) / 2, np.arange(n)) for c, n in zip(coordinates, grid.shape, strict=True)]
    inside = mask[np.ix_(*nearest)][tuple(slice(o, o + n) for o, n in zip(results[0].origin, results[0].volume.shape, strict=True))]
    assert inside.any()
    for outputs in zip(*((r.volume, *r.auxiliary.values()) for r in results), strict=True):
        assert np.array_equal(outputs[0][inside], outputs[1][inside])
    assert sum(results[0].num_windows) < sum(results[1].num_windows)
    assert windows[0] < windows[1]
