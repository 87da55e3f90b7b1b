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
        assert (found[1] == 0.25).all()


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_kept_slices_change_no_probability(tmp_path, monkeypatch, plane):
    spine = make_spine(4)
    path = save_nifti(tmp_path / "spine.nii.gz", spine.hu, affine_of(spine))
    header = read_header(path)
    scan, results, windows = Scan(header, expect_hu=False), [], []
    for reuse in (True, False):
        runner = FakeRunner(HuCodedOutputs(4))
        if not reuse:
            monkeypatch.setattr(CoarseSlices, "of_region", lambda *_: {})
        pipeline = Pipeline({plane: [runner]}, PatchConfig((64, 64)), spacing=(2.0, 2.0, 2.0), coarse_mm=6.0)
        results.append(pipeline(scan, pipeline.working_grid(header)))
        windows.append(runner.windows)
    assert results[0].origin == results[1].origin
    assert results[0].volume.any()
    for kept, predicted in zip(
        (results[0].volume, *results[0].auxiliary.values()), (results[1].volume, *results[1].auxiliary.values()), strict=True
    ):
        # A window that is left out had other voxels beside the region, of which no result is made.
        both = (kept > 0) & (predicted > 0)
        assert both.any()
        assert np.array_equal(kept[both], predicted[both])
    assert sum(results[0].num_windows) < sum(results[1].num_windows)
    assert windows[0] < windows[1]
