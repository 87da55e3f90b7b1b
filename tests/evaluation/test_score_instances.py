# SPDX-License-Identifier: Apache-2.0
"""``instances``: names of many tools, tables, and files that cannot be scored."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.evaluation.score_instances import score_instances, score_instances_command
from vertebra_files import renumbered, save, spine

LABELS = {"sub-1": (19, 20, 21), "sub-2": (21, 22, 23)}


@pytest.fixture
def folders(tmp_path):
    for name, labels in LABELS.items():
        volume = spine(*labels)
        save(tmp_path / "references" / name / f"{name}_seg-vert_msk.nii.gz", volume)
        save(tmp_path / "predictions" / f"{name}_ct_vertebrae.nii.gz", renumbered(volume, {labels[0]: 5, labels[1]: 3}))
        save(tmp_path / "predictions" / f"{name}_ct_fracture.nii.gz", (volume > 0).astype(np.uint8))
    return tmp_path


def test_scores_and_tables(folders):
    scores = score_instances(str(folders / "predictions"), str(folders / "references"), str(folders / "out"), samples=50)
    assert (scores.estimates["recall"].events, scores.estimates["recall"].n, scores.estimates["recall"].patients) == (4, 6, 2)
    assert scores.estimates["DSC per matched vertebra"].value == 1
    rows = list(csv.DictReader((folders / "out" / "instances.csv").open()))
    cells = [(r["instance"], r["label"], r["result"]) for r in rows[:3]]
    assert cells == [("5", "19", "matched"), ("3", "20", "matched"), ("", "21", "missed")]
    scans = list(csv.DictReader((folders / "out" / "scans.csv").open()))
    assert [(r["case"], r["matched"], r["missed"], r["dice_of_all"]) for r in scans] == [
        ("sub-1", "2", "1", "0.8"),
        ("sub-2", "2", "1", "0.8"),
    ]
    assert "| sub-2 | 3 | 2 | 1 | 0 | 0 | 0.8 |" in str(scores)
    content = json.loads((folders / "out" / "summary.json").read_text())
    assert content["summary"]["recall"]["value"] == pytest.approx(4 / 6)
    assert "| vertebrae found (recall) | 0.667 |" in (folders / "out" / "summary.md").read_text()
    assert "4 of 6 (few)" in str(scores)


def test_datalist_and_plain_names(folders):
    for name, labels in LABELS.items():
        save(folders / "plain" / f"{name}_seg.nii.gz", spine(*labels))
    masks = {name: f"references/{name}/{name}_seg-vert_msk.nii.gz" for name in LABELS}
    entries = [{"image": f"{name}_ct.nii.gz", "vertebrae": mask, "patient": "one"} for name, mask in masks.items()]
    (folders / "datalist.json").write_text(json.dumps({"testing": entries}))
    scores = score_instances(str(folders / "plain"), str(folders / "datalist.json"), samples=20)
    assert (scores.estimates["precision"].value, scores.estimates["precision"].patients) == (1, 1)
    with pytest.raises(InputError, match="no case with vertebrae"):
        score_instances(str(folders / "plain"), str(folders / "datalist.json"), section="validation")


@pytest.mark.parametrize("image", ["{}/ct.nii.gz", "sets/{}/scan.nii.gz", "{}/CT/bone.nii.gz"])
def test_scans_of_one_file_name_stay_apart(folders, image):
    for name, labels in LABELS.items():
        save(folders / "out" / image.format(name).replace(".nii", "_vertebrae.nii"), spine(*labels))
    masks = {name: f"references/{name}/{name}_seg-vert_msk.nii.gz" for name in LABELS}
    entries = [{"image": image.format(name), "vertebrae": mask} for name, mask in masks.items()]
    (folders / "datalist.json").write_text(json.dumps({"testing": entries}))
    scores = score_instances(str(folders / "out"), str(folders / "datalist.json"), samples=20)
    assert scores.problems == []
    assert sorted(scores.matchings) == list(LABELS)
    assert scores.estimates["precision"].value == scores.estimates["recall"].value == 1


def test_a_pattern_that_names_no_patient_is_refused(folders):
    with pytest.raises(InputError, match=r"does not match the case name sub-1"):
        score_instances(str(folders / "predictions"), str(folders / "references"), patient="(p*)_*")


def test_unusable_files_are_reported_and_others_scored(folders, capsys):
    save(folders / "predictions" / "sub-1_ct_vertebrae.nii.gz", np.full((10, 10, 60), 0.5, np.float32))
    with pytest.raises(InputError, match="1 of 2 cases were not scored"):
        score_instances_command(str(folders / "predictions"), str(folders / "references"), samples=20)
    printed = capsys.readouterr()
    assert "contains fractions" in "".join(printed)
    assert "| sub-2 | 3 | 2 | 1 | 0 | 0 | 0.8 |" in printed.out  # the other case is scored, and its scores are written nowhere
    (folders / "predictions" / "sub-2_ct_vertebrae.nii.gz").unlink()
    with pytest.raises(InputError, match=r"contains fractions|has no prediction"):
        score_instances(str(folders / "predictions"), str(folders / "references"))


def test_bad_options_are_one_line(folders):
    predictions, references = str(folders / "predictions"), str(folders / "references")
    with pytest.raises(InputError, match="must be one of leave_out, count"):
        score_instances(predictions, references, partial_vertebrae="none")
    with pytest.raises(InputError, match="no such folder"):
        score_instances(str(folders / "nothing"), references)
    with pytest.raises(InputError, match="no such folder"):
        score_instances(predictions, str(folders / "nothing"))
    save(folders / "predictions" / "more" / "sub-1_vertebrae.nii.gz", spine(19))
    assert [p for p in score_instances(predictions, references, samples=20).problems if "rename one" in p]


def test_real_vertebrae_against_themselves():
    from conftest import SHARED

    folder = SHARED / "data" / "verse19" / "derivatives"
    if not folder.is_dir():
        pytest.skip(f"real vertebrae are not at {folder}")
    scores = score_instances(str(folder), str(folder), partial_vertebrae="count", samples=20)
    assert {e.value for e in scores.estimates.values()} == {1.0}
    assert scores.estimates["recall"].n >= 9
