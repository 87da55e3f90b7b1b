# SPDX-License-Identifier: Apache-2.0
"""Simulation on scans with vertebra instances: what was known stays, what is new is in the label and in the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged
from scripts.core.errors import InputError
from scripts.data.datalist import IGNORE_INDEX
from scripts.simulation.datasets.simulate import simulate
from scripts.simulation.fracture.labels import labelled_vertebrae, training_label
from scripts.simulation.fracture.sampling import add_fractures
from scripts.simulation.fracture.transforms import RandSimulatedFractured
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.spine_scan import SpineScan


def read(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def healthy_set(phantom_set, tmp_path):
    """The healthy scan of the phantoms and one fractured one, as a datalist of their own."""
    content = json.loads((phantom_set / "datalist.json").read_text())
    cases = [c for s in ("training", "validation", "testing") for c in content[s]]
    cases.sort(key=lambda c: int((read(phantom_set / c["label"]) == 1).sum()))
    chosen = [{k: v if k == "patient" else str(phantom_set / v) for k, v in c.items()} for c in (cases[0], cases[-1])]
    path = tmp_path / "scans.json"
    path.write_text(json.dumps({"training": [chosen[0]], "testing": [chosen[1]]}))
    return path, chosen


def test_simulate_adds_fractures_and_keeps_what_was_known(healthy_set, tmp_path):
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


def test_simulate_goes_on_where_it_stopped_and_names_what_is_broken(healthy_set, tmp_path, capsys):
    path, (healthy, _) = healthy_set
    out = tmp_path / "out"
    content = json.loads(path.read_text())
    content["validation"] = [{"image": str(tmp_path / "gone.nii.gz"), "vertebrae": healthy["vertebrae"]}]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="1 of 3 scans"):
        simulate(str(path), str(out))
    assert "gone.nii.gz" in capsys.readouterr().out
    kept = sorted((out / "images").iterdir())
    stamps = [f.stat().st_mtime_ns for f in kept]
    assert len(kept) == 2
    with pytest.raises(InputError, match="1 of 3 scans"):
        simulate(str(path), str(out))
    assert [f.stat().st_mtime_ns for f in kept] == stamps


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
def test_bad_arguments_are_one_line(healthy_set, tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        simulate(str(healthy_set[0]), str(tmp_path / "out"), **arguments)


def test_a_datalist_without_vertebrae_or_absent_is_refused(tmp_path):
    path = tmp_path / "d.json"
    with pytest.raises(InputError, match="does not exist"):
        simulate(str(path), str(tmp_path / "out"))
    path.write_text(json.dumps({"training": [{"image": "a.nii.gz"}]}))
    with pytest.raises(InputError, match="no case has `vertebrae`"):
        simulate(str(path), str(tmp_path / "out"))


def test_training_label_keeps_unknown_bone_outside_the_vertebrae():
    labels = np.array([[[20, 21, 0, 0]]], np.uint8)
    scan = SpineScan(np.zeros((1, 1, 4), np.int16), labels, np.eye(4), [{"label": 21}])
    old = np.array([[[255, 0, 255, 0]]])
    assert training_label(scan, [], [20], old).ravel().tolist() == [IGNORE_INDEX, 1, IGNORE_INDEX, 0]
    assert training_label(scan, [20], [], None).ravel().tolist() == [1, 1, 0, 0]


def test_transform_fractures_on_the_fly_and_is_seeded(healthy_set):
    files = {k: v for k, v in healthy_set[1][0].items() if k != "patient"}
    items = LoadImaged(keys=list(files), image_only=True, ensure_channel_first=True)(files)
    transform = RandSimulatedFractured("image", prob=1.0, fractures=1, grades=(3,), shapes=("crush",)).set_random_state(
        0
    )
    first = transform(items)
    again = transform.set_random_state(0)(items)
    assert isinstance(first["image"], MetaTensor)
    torch.testing.assert_close(first["image"], again["image"])
    changed = np.unique(np.asarray(items["vertebrae"])[np.asarray(first["label"]) == 1])
    assert (np.asarray(first["label"]) == 1).any()
    assert changed.size
    assert not torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(items["image"]))
    never = RandSimulatedFractured("image", prob=0.0)(items)
    torch.testing.assert_close(never["label"], items["label"])


def test_storage_orientation_does_not_decide_which_vertebrae_are_whole():
    scan = make_phantom(3, "lumbar")
    turned = nib.Nifti1Image(scan.labels, scan.affine).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    image = nib.Nifti1Image(scan.image, scan.affine).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    other = SpineScan(np.asarray(image.dataobj), np.asarray(turned.dataobj), turned.affine)
    results = [add_fractures(s, np.random.default_rng(2), 1, ("crush",), (3,)).fractures for s in (scan, other)]
    assert [f["label"] for f in results[0]] == [f["label"] for f in results[1]] != []


def test_scans_of_one_name_are_told_apart_by_patient(healthy_set, tmp_path):
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
