# SPDX-License-Identifier: Apache-2.0
"""Data sets of simulated fractures: existing labels are files, new fractures are in label and table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.datalist import IGNORE_INDEX
from scripts.simulation.datasets.build import build
from scripts.simulation.datasets.phantom import phantom
from scripts.simulation.datasets.render import render
from scripts.simulation.datasets.simulate import simulate
from scripts.simulation.fracture.labels import labelled_vertebrae, training_label
from scripts.simulation.spine_scan import SpineScan


def read(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def healthy_set(phantom_set, tmp_path):
    """Datalist of the healthy phantom and a fractured one."""
    content = json.loads((phantom_set / "datalist.json").read_text())
    cases = [c for s in ("training", "validation", "testing") for c in content[s]]
    cases.sort(key=lambda c: int((read(phantom_set / c["label"]) == 1).sum()))
    chosen = [{k: v if k == "patient" else str(phantom_set / v) for k, v in c.items()} for c in (cases[0], cases[-1])]
    path = tmp_path / "scans.json"
    path.write_text(json.dumps({"training": [chosen[0]], "testing": [chosen[1]]}))
    return path, chosen


def test_simulate_adds_fractures_and_keeps_labels(healthy_set, tmp_path):
    path, (healthy, fractured) = healthy_set
    out = tmp_path / "out"
    simulate(str(path), str(out), grades=3, shapes="crush", healthy=0.0, fractures=1, seed=1)
    content = json.loads((out / "datalist.json").read_text())
    assert [c["patient"] for c in content["training"]] == [healthy["patient"]]
    assert [c["patient"] for c in content["testing"]] == [fractured["patient"]]
    rows = list(csv.DictReader((out / "vertebrae.csv").open()))
    for section, source in (("training", healthy), ("testing", fractured)):
        case = content[section][0]
        labels, mask, old = read(out / case["vertebrae"]), read(out / case["label"]), read(source["label"])
        stem = case["image"].split("/")[1].split(".")[0]
        new = {int(r["label"]) for r in rows if r["case"] == stem and r["grade"] not in ("", "0")}
        before, ignored = labelled_vertebrae(read(source["vertebrae"]), old)
        assert new
        assert {int(r["label"]) for r in rows if r["case"] == stem and r["grade"] == ""} >= set(before)
        assert set(before).isdisjoint(new)
        assert sorted(np.unique(labels[mask == 1]).tolist()) == sorted({*before, *new})
        assert np.isin(labels[mask == IGNORE_INDEX], ignored).all()
        for vertebra in new:
            was, now = (int((read(f) == vertebra).sum()) for f in (source["vertebrae"], out / case["vertebrae"]))
            assert now < 0.95 * was
        assert nib.load(out / case["image"]).shape == nib.load(source["image"]).shape


def test_simulate_keeps_the_grades_of_real_vertebrae(healthy_set, tmp_path):
    path, (_, fractured) = healthy_set
    content = json.loads(path.read_text()) | {"training": []}
    path.write_text(json.dumps(content))
    labels = read(fractured["vertebrae"])
    real, ignored = labelled_vertebrae(labels, read(fractured["label"]))
    intact = [v for v in np.unique(labels[labels > 0]).tolist() if v not in (*real, *ignored)]
    name = Path(fractured["vertebrae"]).name.split(".")[0]
    lines = [f"{name},{v},1,3,crush" for v in real] + [f"{name},{intact[0]},0,1,wedge", f"{name},{intact[1]},,,"]
    (tmp_path / "vertebrae.csv").write_text("\n".join(["case,label,fractured,grade,shape", *lines]) + "\n")
    simulate(str(path), str(tmp_path / "out"), healthy=0.99, fractures=1)
    rows = {int(r["label"]): r for r in csv.DictReader((tmp_path / "out" / "vertebrae.csv").open())}
    assert {(r["fractured"], r["grade"], r["shape"]) for v, r in rows.items() if v in real} == {("1", "3", "crush")}
    new = [v for v, r in rows.items() if r["fractured"] == "1" and v not in real]
    if intact[0] not in new:
        assert [rows[intact[0]][k] for k in ("fractured", "grade", "shape")] == ["0", "1", "wedge"]
    if intact[1] not in new:
        assert [rows[intact[1]][k] for k in ("fractured", "grade")] == ["0", "0"]


def test_simulate_resumes_and_isolates_failures(healthy_set, tmp_path, capsys):
    path, (healthy, _) = healthy_set
    out = tmp_path / "out"
    content = json.loads(path.read_text())
    content["validation"] = [{"image": str(tmp_path / "gone.nii.gz"), "vertebrae": healthy["vertebrae"]}]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="1 of 3 scans"):
        simulate(str(path), str(out))
    assert "gone.nii.gz" in capsys.readouterr().out
    files = sorted((out / "images").iterdir())
    stamps = [f.stat().st_mtime_ns for f in files]
    assert len(files) == 2
    with pytest.raises(InputError, match="1 of 3 scans"):
        simulate(str(path), str(out))
    assert [f.stat().st_mtime_ns for f in files] == stamps


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shapes": "burst"}, "wedge, biconcave, crush"),
        ({"grades": 4}, "among 1, 2, 3"),
        ({"healthy": 1.0}, "below 1"),
        ({"fractures": 0}, "1 or more"),
        ({"copies": 0}, "1 or more"),
    ],
)
def test_invalid_options_of_simulate_are_refused(healthy_set, tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        simulate(str(healthy_set[0]), str(tmp_path / "out"), **arguments)


def test_datalist_without_vertebrae_is_refused(tmp_path):
    path = tmp_path / "d.json"
    with pytest.raises(InputError, match="does not exist"):
        simulate(str(path), str(tmp_path / "out"))
    path.write_text(json.dumps({"training": [{"image": "a.nii.gz"}]}))
    with pytest.raises(InputError, match="no case has `vertebrae`"):
        simulate(str(path), str(tmp_path / "out"))


def test_equal_file_names_are_distinguished_by_patient(healthy_set, tmp_path):
    path, chosen = healthy_set
    content = {"training": []}
    for k, case in enumerate(chosen):
        (tmp_path / f"p{k}").mkdir()
        same = tmp_path / f"p{k}" / "ct.nii.gz"
        same.write_bytes(Path(case["image"]).read_bytes())
        content["training"].append({**case, "image": str(same), "patient": f"p{k}"})
    path.write_text(json.dumps(content))
    simulate(str(path), str(tmp_path / "out"), healthy=0.9)
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == ["p0_ct.nii.gz", "p1_ct.nii.gz"]
    content["training"][1]["patient"] = "p0"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="2 cases are called p0_ct"):
        simulate(str(path), str(tmp_path / "other"))


def test_masks_without_a_ct_are_named(tmp_path):
    path = tmp_path / "masks.json"
    path.write_text(json.dumps({"training": [{"vertebrae": "a.nii.gz"}]}))
    with pytest.raises(InputError, match=r"no case has `image`, a CT; `data render`"):
        simulate(str(path), str(tmp_path / "out"))


def test_fractures_without_instance_and_partly_marked_ones(healthy_set):
    """The first stays a fracture, the second becomes unknown."""
    _, (healthy, _) = healthy_set
    vertebrae = read(healthy["vertebrae"])
    first, second = (int(v) for v in np.unique(vertebrae[(vertebrae > 0) & (vertebrae < 25)])[:2])
    label = np.zeros(vertebrae.shape, np.uint8)
    label[vertebrae == first] = 1
    part = np.argwhere(vertebrae == second)
    label[tuple(part[: len(part) // 4].T)] = 1
    missing = np.where(vertebrae == first, 0, vertebrae).astype(np.uint8)
    fractured, ignored = labelled_vertebrae(missing, label)
    assert fractured == []
    assert ignored == [second]
    scan = SpineScan(np.zeros(vertebrae.shape, np.int16), missing, np.eye(4))
    made = training_label(scan, fractured, ignored, label)
    assert np.array_equal(made == 1, vertebrae == first)
    assert np.array_equal(made == IGNORE_INDEX, vertebrae == second)


def test_a_set_of_the_user_is_not_overwritten(phantom_set, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("images", "labels", "vertebrae", "datalist.json"):
        (shutil.copytree if (phantom_set / name).is_dir() else shutil.copy)(phantom_set / name, own / name)
    before = {p: p.read_bytes() for p in own.rglob("*") if p.is_file()}
    for call in (simulate, render):
        with pytest.raises(InputError, match="is of another data set and would be overwritten"):
            call(str(own / "datalist.json"), str(own))
    with pytest.raises(InputError, match="is of another data set"):
        phantom(str(own), cases=3)
    (tmp_path / "r.yaml").write_text("phantom: {cases: 3, spacing: 5}")
    with pytest.raises(InputError, match=r"its datalist\.json is of another data set"):
        build(str(tmp_path / "r.yaml"), str(own))
    assert {p: p.read_bytes() for p in own.rglob("*") if p.is_file()} == before
