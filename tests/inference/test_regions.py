# SPDX-License-Identifier: Apache-2.0
"""The search region contains every vertebra and excludes air."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scripts.inference.regions import coarse_copy, spine_region
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
