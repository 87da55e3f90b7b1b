# SPDX-License-Identifier: Apache-2.0
"""The phantom is seeded, has realistic HU, whole vertebrae and a right-handed place in space."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.core.vertebrae import LABELS, spine_order
from scripts.simulation.datasets.phantom import phantom
from scripts.simulation.fracture.sampling import whole_vertebrae
from scripts.simulation.phantom.anatomy import REGIONS
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.style import ScanStyle

COARSE = ScanStyle(spacing=(3.0, 2.0, 2.0))


@pytest.mark.parametrize("region", list(REGIONS))
def test_every_region_shows_its_vertebrae_at_realistic_hu(region):
    scan = make_phantom(1, region, COARSE)
    expected = [LABELS[v] for v in REGIONS[region] if v != "S1"]
    shown = spine_order(scan.labels)
    assert set(shown) <= set(expected)
    assert len(shown) >= len(expected) - 2
    bone, air = scan.image[scan.labels > 0], scan.image[scan.image < -900]
    assert 150 < np.median(bone) < 600
    assert bone.max() > 500
    assert air.size > 0
    # Head is up: labels rise towards the feet.
    heights = [np.argwhere(scan.labels == v)[:, 2].mean() for v in shown]
    assert heights == sorted(heights, reverse=True)


def test_the_same_seed_gives_the_same_scan_and_another_seed_another():
    first, again, other = (make_phantom(s, "lumbar", COARSE) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_posterior_elements_lie_behind_the_body_and_the_canal_is_free():
    scan = make_phantom(2, "lumbar", ScanStyle(spacing=(1.5, 1.5, 1.5)))
    voxels = np.argwhere(scan.labels == LABELS["L3"])
    middle = voxels[np.abs(voxels[:, 0] - voxels[:, 0].mean()) < 2]
    centre_height = middle[np.abs(middle[:, 2] - middle[:, 2].mean()) < 3]
    gaps = np.diff(np.unique(centre_height[:, 1]))
    assert gaps.max() * 1.5 > 8, "no spinal canal between body and spinous process"


def test_unknown_region_is_refused():
    with pytest.raises(ValueError, match="lumbar"):
        make_phantom(0, "pelvis")


def test_data_set_has_every_file_on_one_grid_and_a_true_table(phantom_set):
    datalist = json.loads((phantom_set / "datalist.json").read_text())
    assert [len(datalist[s]) for s in ("training", "validation", "testing")] == [2, 1, 1]
    rows = list(csv.DictReader((phantom_set / "vertebrae.csv").open()))
    for case in datalist["training"] + datalist["validation"] + datalist["testing"]:
        image, label = nib.load(phantom_set / case["image"]), nib.load(phantom_set / case["label"])
        vertebrae = nib.load(phantom_set / "vertebrae" / (case["patient"] + ".nii.gz"))
        np.testing.assert_allclose(image.affine, label.affine)
        assert image.shape == label.shape == vertebrae.shape
        assert image.get_data_dtype() == np.int16
        fractured = {int(r["label"]) for r in rows if r["case"] == case["patient"] and int(r["grade"]) > 0}
        mask = np.asarray(label.dataobj) == 1
        assert set(np.unique(np.asarray(vertebrae.dataobj)[mask]).tolist()) == fractured


def test_an_interrupted_data_set_is_completed_not_made_again(phantom_set, tmp_path):
    arguments = {"cases": 3, "seed": 9, "regions": "lumbar", "healthy": 0.9, "spacing": 5.0}
    phantom(str(tmp_path), **arguments)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
    phantom(str(tmp_path), **arguments)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": 2}, "cases=2"),
        ({"regions": "foot"}, "foot"),
        ({"grades": [4]}, "grades"),
        ({"healthy": 1.0}, "healthy=1.0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        phantom(str(tmp_path), **arguments)


def test_vertebrae_at_the_border_are_not_whole():
    labels = np.zeros((6, 6, 12), np.uint8)
    labels[2:4, 2:4, 1:4] = 21
    labels[2:4, 2:4, 9:] = 20
    labels[:, 2:4, 5:7] = 22  # cut at the sides only: the body is whole
    assert whole_vertebrae(labels) == [21, 22]


def test_a_process_that_touches_the_border_does_not_make_a_vertebra_cut():
    labels = np.zeros((10, 10, 12), np.uint8)
    labels[1:9, 1:9, 3:8] = 21
    labels[4, 4, :3] = 21  # the tip of a spinous process in a tight crop
    assert whole_vertebrae(labels) == [21]
    labels[1:5, 1:9, :3] = 21
    assert whole_vertebrae(labels) == []
