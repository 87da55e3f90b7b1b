# SPDX-License-Identifier: Apache-2.0
"""Data sets of phantoms: one grid, a consistent table, the ignore index, resume."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.simulation.datasets.phantom import fractured_phantom, phantom, uncertain_fractures
from scripts.simulation.style import ScanStyle, Variation

STYLE = ScanStyle(spacing=(2.0, 1.5, 1.5), field_of_view=(70.0, 130.0, 190.0), noise=4.0)


def test_data_set_has_one_grid_and_a_consistent_table(phantom_set):
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


def test_finished_cases_are_kept(phantom_set, tmp_path):
    arguments = {"cases": 3, "seed": 9, "regions": "lumbar", "healthy": 0.9, "spacing": 5.0}
    phantom(str(tmp_path), **arguments)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
    phantom(str(tmp_path), **arguments)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing": -1.0}, "spacing=.*above 0"),
        ({"seed": -5}, "seed=-5: must be 0 or more"),
        ({"cases": 2}, "cases=2"),
        ({"regions": "foot"}, "foot"),
        ({"grades": [4]}, "grades"),
        ({"healthy": 1.0}, "healthy=1.0"),
    ],
)
def test_invalid_options_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        phantom(str(tmp_path), **arguments)


def test_mild_and_truncated_fractures_are_ignored(tmp_path):
    scan = fractured_phantom(21, "lumbar", 3, (1,), replace(STYLE, variation=Variation()), collapse_fraction=1.0)
    assert scan.fractures
    assert uncertain_fractures(scan, 2) == [f["label"] for f in scan.fractures]
    assert uncertain_fractures(scan, 1) == []
    scan.labels = scan.labels[:, :, : int(np.argwhere(scan.labels == scan.fractures[0]["label"])[:, 2].mean())]
    assert scan.fractures[0]["label"] in uncertain_fractures(scan, 1)
    phantom(
        str(tmp_path), cases=3, seed=40, regions="lumbar", grades=1, healthy=0.0, style="wide", collapse_fraction=1.0, min_grade=2
    )
    values = set()
    for path in (tmp_path / "labels").glob("*.nii.gz"):
        values |= set(np.unique(np.asarray(nib.load(path).dataobj)).tolist())
    assert 255 in values
    assert 1 not in values


def test_options_of_another_style_are_refused(tmp_path):
    for options, word in (
        ({"style": "odd"}, "wide"),
        ({"collapse_fraction": 0.5}, "wide"),
        ({"min_grade": 4}, "1, 2 or 3"),
        ({"noise": -1.0}, "noise"),
    ):
        with pytest.raises(InputError, match=word):
            phantom(str(tmp_path / "x"), cases=3, **options)


def test_stored_noise_can_be_replaced(tmp_path):
    arguments = {"cases": 3, "seed": 9, "regions": "lumbar", "healthy": 0.9, "spacing": 5.0}
    scans = {}
    for noise in (None, 0.0):
        phantom(str(tmp_path / str(noise)), noise=noise, **arguments)
        folder = tmp_path / str(noise)
        scans[noise] = [np.asarray(nib.load(folder / n / "phantom-0009.nii.gz").dataobj) for n in ("images", "vertebrae")]
    np.testing.assert_array_equal(scans[None][1], scans[0.0][1])
    added = scans[None][0].astype(float) - scans[0.0][0]
    assert abs(added.mean()) < 2
    assert added.std() > 4
    with pytest.raises(InputError, match="noise"):
        phantom(str(tmp_path / "0.0"), **arguments)


def test_clinical_set_has_no_fracture_where_all_are_healthy(tmp_path):
    phantom(str(tmp_path), cases=3, seed=70, regions="lumbar", healthy=0.9, style="clinical", collapse_fraction=0.5, spacing=4.0)
    rows = list(csv.DictReader((tmp_path / "vertebrae.csv").open()))
    healthy = [r for r in rows if r["case"] != "phantom-0070"]
    assert healthy
    assert {r["grade"] for r in healthy} == {"0"}
    for case in {r["case"] for r in healthy}:
        assert not np.asarray(nib.load(tmp_path / "labels" / f"{case}.nii.gz").dataobj).any()


def test_a_folder_of_one_style_is_not_resumed_as_another(tmp_path):
    options = {"cases": 3, "seed": 9, "regions": "lumbar", "healthy": 0.9, "spacing": 5.0}
    phantom(str(tmp_path / "wide"), **options, style="wide", min_grade=2)
    with pytest.raises(InputError, match="was begun with style='wide', now style=None"):
        phantom(str(tmp_path / "wide"), **options)
    settings = json.loads((tmp_path / "wide" / "settings.json").read_text())
    plain = {k: v for k, v in settings.items() if k not in ("style", "collapse_fraction", "min_grade")}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "settings.json").write_text(json.dumps(plain))  # of a version that left defaults out
    (tmp_path / "old" / "datalist.json").write_text("{}")
    assert phantom(str(tmp_path / "old"), **options)


def test_a_deleted_file_is_made_again(tmp_path):
    options = {"cases": 4, "seed": 9, "regions": "lumbar", "healthy": 0.4, "spacing": 5.0}
    phantom(str(tmp_path), **options)
    image, other = (tmp_path / "images" / f"phantom-00{n}.nii.gz" for n in ("10", "11"))
    before, time = image.read_bytes(), other.stat().st_mtime_ns
    image.unlink()
    phantom(str(tmp_path), **options)
    assert image.read_bytes() == before
    assert other.stat().st_mtime_ns == time
