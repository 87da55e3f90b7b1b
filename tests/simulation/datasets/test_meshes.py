# SPDX-License-Identifier: Apache-2.0
"""Data sets of spines of surfaces: files, table and split of every simulated set, resumable, bad options in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from scripts.core.errors import InputError
from scripts.core.vertebrae import spine_order
from scripts.data.datalist import SECTIONS, read_datalist
from scripts.data.vertebra_table import read_vertebra_table
from scripts.simulation.datasets.meshes import _average_slices, meshes
from scripts.simulation.spine_scan import SpineScan

sys.path.insert(0, str(Path(__file__).parents[1] / "anatomy"))
from surface_files import write_person


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    return write_person(tmp_path_factory.mktemp("surfaces"), ("T12", "L1", "L2", "L3"))


def test_a_set_is_complete_and_resumes(surfaces, tmp_path):
    out = tmp_path / "set"
    path = meshes(str(surfaces), str(out), cases=3, regions="thoracolumbar", noise=0.0, healthy=0.34)
    _, sections = read_datalist(path)
    assert sum(len(sections[s]) for s in SECTIONS) == 3
    rows = read_vertebra_table(out / "vertebrae.csv")
    fractured = 0
    for case in (c for s in SECTIONS for c in sections[s]):
        image, label, vertebrae = (nib.load(case[key]) for key in ("image", "label", "vertebrae"))
        assert image.shape == label.shape == vertebrae.shape
        mask = np.asarray(vertebrae.dataobj)
        assert set(spine_order(mask)) <= {19, 20, 21, 22}
        values = np.asarray(image.dataobj)
        assert np.median(values[mask > 0]) > np.median(values[mask == 0])
        fractured += int((np.asarray(label.dataobj) == 1).any())
    assert fractured >= 1
    assert {row["grade"] for row in rows} - {"0"} <= {"1", "2", "3"}
    before = {f: f.stat().st_mtime_ns for f in (out / "images").iterdir()}
    meshes(str(surfaces), str(out), cases=3, regions="thoracolumbar", noise=0.0, healthy=0.34)
    assert before == {f: f.stat().st_mtime_ns for f in (out / "images").iterdir()}
    with pytest.raises(InputError, match="noise"):
        meshes(str(surfaces), str(out), cases=3, regions="thoracolumbar", noise=5.0, healthy=0.34)


def test_thick_slices_are_the_mean_of_thin_ones():
    image = np.arange(4 * 5 * 7, dtype=np.int16).reshape(4, 5, 7)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = [10, 20, 30]
    scan = SpineScan(image, (image % 3).astype(np.uint8), affine)
    assert _average_slices(scan, 0, 1) is scan
    thick = _average_slices(scan, 2, 3)
    assert thick.image.shape == thick.labels.shape == (4, 5, 2)
    np.testing.assert_array_equal(thick.image, image[:, :, [1, 4]])
    np.testing.assert_array_equal(thick.labels, scan.labels[:, :, [1, 4]])
    np.testing.assert_allclose(thick.affine @ [0, 0, 1, 1], affine @ [0, 0, 4, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"grades": [4]},
        {"fractures": 0},
        {"healthy": 2.0},
        {"min_grade": 0},
        {"noise": -1.0},
        {"cases": 2},
        {"regions": "cervical"},
        {"cortex": "fat"},
    ],
    ids=lambda o: next(iter(o)),
)
def test_bad_options_are_one_line(surfaces, tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        meshes(str(surfaces), str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_region_is_refused(surfaces, tmp_path):
    with pytest.raises(InputError, match="no three adjacent vertebrae of the thoracic spine"):
        meshes(str(write_person(tmp_path / "two", ("L3", "L4"))), str(tmp_path / "out"), cases=3, regions="thoracic")
    with pytest.raises(InputError, match="no three adjacent vertebrae"):
        meshes(str(tmp_path / "two"), str(tmp_path / "out"), cases=3)


def test_real_surfaces_are_of_every_level():
    folder = SHARED / "data" / "meshes"
    if not folder.is_dir():
        pytest.skip("surfaces of vertebrae are not at ../shared/data/meshes")
    from scripts.simulation.anatomy.surfaces import SURFACE_LEVELS, level_of

    assert {level_of(f.name) for f in (folder / "thoracolumbar_low_poly").glob("*.stl")} == set(SURFACE_LEVELS)
