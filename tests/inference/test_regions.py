# SPDX-License-Identifier: Apache-2.0
"""The search region contains every vertebra and excludes air."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scripts.inference.regions import RegionMap, coarse_copy, largest_parts, region_around, spine_region
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from scripts.io.working_grid import WorkingGrid
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle


def recall(path, labels: np.ndarray, mode: str) -> tuple[float, float]:
    """Fraction of the labelled voxels in the region, and fraction of the scan in it."""
    scan = Scan(read_header(path))
    grid = WorkingGrid.plan(scan.header.shape, scan.header.affine, (1, 1, 1))
    spine = spine_region(*coarse_copy(scan, grid), grid, mode)
    index = np.argwhere(labels)
    coarse = []
    for axis in range(3):
        coordinates = grid.inverse_positions(axis, index[:, grid.axes[axis]])
        coarse.append(spine.nearest(axis, np.round(coordinates).astype(int)))
    return float(spine.mask[tuple(coarse)].mean()), float(spine.mask.mean())


@pytest.mark.parametrize("region", ["cervical", "thoracic", "thoracolumbar", "lumbar"])
@pytest.mark.parametrize("trabecular", [70.0, 220.0])
@pytest.mark.parametrize("seed", [4, 9])
def test_region_contains_vertebrae_of_any_bone_density(tmp_path, region, trabecular, seed):
    style = ScanStyle(spacing=(2.0, 2.0, 2.0), field_of_view=(240.0, 240.0, 200.0), trabecular=trabecular, contrast=170.0)
    scan = make_phantom(seed, region, replace(style, noise=30.0))
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(scan.image[::-1], scan.affine @ np.diag([-1, 1, 1, 1.0])), path)
    sensitivity, fraction = recall(path, scan.labels[::-1] > 0, "spine")
    assert sensitivity == 1.0
    assert fraction < 0.6
    assert recall(path, scan.labels[::-1] > 0, "bone")[0] == 1.0


def test_region_contains_vertebrae_of_real_scans(verse19):
    for image in sorted((verse19 / "rawdata").rglob("*_ct.nii.gz")):
        mask = next((verse19 / "derivatives" / image.parent.name).glob("*msk.nii.gz"))
        assert recall(image, np.asarray(nib.load(mask).dataobj) > 0, "spine")[0] == 1.0


def test_region_is_small_in_a_real_torso(verse19):
    torso = verse19.parent / "totalsegmentator" / "s_example"
    if not torso.is_dir():
        pytest.skip(f"real CT is not at {torso}")
    files = (torso / "segmentations").glob("vertebrae_*.nii.gz")
    labels = np.logical_or.reduce([np.asarray(nib.load(f).dataobj) > 0 for f in files])
    sensitivity, fraction = recall(torso / "ct.nii.gz", labels, "spine")
    assert sensitivity == 1.0
    assert fraction < 0.4


def test_mode_all_and_an_unknown_mode(tmp_path):
    hu, coordinates = np.zeros((4, 5, 6), np.int16), tuple(np.arange(n) * 4.0 for n in (4, 5, 6))
    grid = WorkingGrid.plan((16, 20, 24), np.eye(4), (1, 1, 1))
    assert spine_region(hu, coordinates, grid, "all").mask.all()
    assert not spine_region(hu, coordinates, grid, "bone").mask.any()
    with pytest.raises(ValueError, match="search="):
        spine_region(hu, coordinates, grid, "spines")


def detections_of(shape, axis: int, boxes, step: int = 4) -> list[tuple[int, np.ndarray]]:
    """Every fourth slice of boxes along R, A, S."""
    volume = np.zeros(shape, bool)
    for box in boxes:
        volume[box] = True
    return [(k, np.take(volume, k, axis)) for k in range(step // 2, shape[axis], step)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_small_parts_of_a_region_are_left_out(axis):
    shape = (60, 64, 140)
    upper, lower = np.s_[20:40, 20:44, 90:130], np.s_[20:40, 20:44, 0:40]  # two parts of a spine
    hip = np.s_[2:10, 2:8, 4:12]
    everywhere = detections_of(shape, axis, [upper, lower])
    with_hip = detections_of(shape, axis, [upper, lower, hip])
    expected = region_around(shape, axis, everywhere, 4, 4)
    region = largest_parts(region_around(shape, axis, with_hip, 4, 4), axis, with_hip, 0.2)
    assert np.array_equal(region.mask, expected.mask)
    kept = largest_parts(region_around(shape, axis, with_hip, 4, 4), axis, with_hip, 0.0)
    assert kept.mask.sum() > expected.mask.sum()


@pytest.mark.parametrize("boxes", [[], [np.s_[20:40, 20:44, 10:50]]], ids=["none", "one"])
def test_one_part_or_none_stays(boxes):
    detections = detections_of((60, 64, 80), 0, boxes)
    region = region_around((60, 64, 80), 0, detections, 4, 4)
    assert np.array_equal(largest_parts(region, 0, detections, 0.2).mask, region.mask)
    assert region.mask.any() == bool(boxes)


def test_what_lies_far_beside_the_bodies_is_left_out():
    """An arm bone in the slices of a region connects to the ribs; no process of a vertebra reaches that far."""
    grid = WorkingGrid.plan((120, 60, 60), np.diag([2.0, 2.0, 2.0, 1.0]), (2, 2, 2))
    for axis, rows in ((0, None), (1, (50, 60))):
        body = np.zeros([n for a, n in enumerate(grid.shape) if a != axis], bool)
        body[(slice(*rows) if rows else slice(20, 30)), 20:30] = True
        bodies = region_around(grid.shape, axis, [(55 if axis == 0 else 25, body)], slice_margin=5, inplane_margin=0)
        whole = RegionMap(np.ones_like(bodies.mask), bodies.coordinates)
        near = whole.beside(bodies, 45.0, grid)
        low, high = bodies.bounds(grid.shape)[0]
        kept = near.coordinates[0][near.mask.any(axis=(1, 2))]
        assert low - 45 / 2 <= kept.min() <= low - 45 / 2 + 4
        assert high + 45 / 2 - 5 <= kept.max() < high + 45 / 2
        assert near.mask[np.isin(near.coordinates[0], kept)].all()
        assert whole.beside(RegionMap(np.zeros_like(bodies.mask), bodies.coordinates), 45.0, grid) is whole
