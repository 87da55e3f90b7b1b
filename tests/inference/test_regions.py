# SPDX-License-Identifier: Apache-2.0
"""No vertebra is left out of the search, whatever the scan; air is."""

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
    """Share of the labelled voxels that are searched, and share of the scan that is."""
    scan = Scan(read_header(path))
    grid = WorkingGrid.plan(scan.header.shape, scan.header.affine, (1, 1, 1))
    spine = spine_region(*coarse_copy(scan, grid), grid, mode)
    index = np.argwhere(labels)
    at = []
    for axis in range(3):
        places = grid.inverse_positions(axis, index[:, grid.axes[axis]])
        at.append(spine.nearest(axis, np.round(places).astype(int)))
    return float(spine.mask[tuple(at)].mean()), float(spine.mask.mean())


@pytest.mark.parametrize("region", ["cervical", "thoracic", "thoracolumbar", "lumbar"])
@pytest.mark.parametrize("trabecular", [70.0, 220.0])
@pytest.mark.parametrize("seed", [4, 9])
def test_phantoms_with_sparse_and_dense_bone(tmp_path, region, trabecular, seed):
    style = ScanStyle(
        spacing=(2.0, 2.0, 2.0), field_of_view=(240.0, 240.0, 200.0), trabecular=trabecular, contrast=170.0
    )
    scan = make_phantom(seed, region, replace(style, noise=30.0))
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(scan.image[::-1], scan.affine @ np.diag([-1, 1, 1, 1.0])), path)
    found, share = recall(path, scan.labels[::-1] > 0, "spine")
    assert found == 1.0
    assert share < 0.6
    assert recall(path, scan.labels[::-1] > 0, "bone")[0] == 1.0


def test_real_scans(verse19):
    for image in sorted((verse19 / "rawdata").rglob("*_ct.nii.gz")):
        mask = next((verse19 / "derivatives" / image.parent.name).glob("*msk.nii.gz"))
        assert recall(image, np.asarray(nib.load(mask).dataobj) > 0, "spine")[0] == 1.0


def test_a_real_torso(verse19):
    torso = verse19.parent / "totalsegmentator" / "s_example"
    if not torso.is_dir():
        pytest.skip(f"real CT is not at {torso}")
    files = (torso / "segmentations").glob("vertebrae_*.nii.gz")
    labels = np.logical_or.reduce([np.asarray(nib.load(f).dataobj) > 0 for f in files])
    found, share = recall(torso / "ct.nii.gz", labels, "spine")
    assert found == 1.0
    assert share < 0.4


def test_everything_and_an_unknown_mode(tmp_path):
    hu, places = np.zeros((4, 5, 6), np.int16), tuple(np.arange(n) * 4.0 for n in (4, 5, 6))
    grid = WorkingGrid.plan((16, 20, 24), np.eye(4), (1, 1, 1))
    assert spine_region(hu, places, grid, "all").mask.all()
    assert not spine_region(hu, places, grid, "bone").mask.any()
    with pytest.raises(ValueError, match="search="):
        spine_region(hu, places, grid, "spines")
