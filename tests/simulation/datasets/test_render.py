# SPDX-License-Identifier: Apache-2.0
"""Data sets of rendered CTs: real fractures are files, failures isolated."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.core.vertebrae import LEVELS
from scripts.data.datalist import load_datalist
from scripts.data.vertebra_table import write_vertebra_table
from scripts.simulation.datasets.render import render


def test_rendering_keeps_real_fractures_and_isolates_failures(phantom_set, tmp_path, capsys):
    content = json.loads((phantom_set / "datalist.json").read_text())
    cases = [{**c, **{k: str(phantom_set / c[k]) for k in ("image", "label", "vertebrae")}} for c in content["training"]]
    cases.append({"vertebrae": str(tmp_path / "gone.nii.gz"), "patient": "gone"})
    path = tmp_path / "masks.json"
    path.write_text(json.dumps({"training": cases}))
    with pytest.raises(InputError, match="1 of 3 scans"):
        render(str(path), str(tmp_path / "out"), healthy=1.0)
    assert "gone.nii.gz" in "".join(capsys.readouterr())
    made = load_datalist(str(tmp_path / "out" / "datalist.json"), "training")
    assert len(made) == 2
    for case, source in zip(made, cases[:2], strict=True):
        was, now = (np.asarray(nib.load(c["label"]).dataobj) for c in (source, case))
        assert (now == 1).sum() == (was == 1).sum()
        assert (now == 255).sum() > 0
    good = {"training": cases[:1]}
    path.write_text(json.dumps(good))
    thick = render(str(path), str(tmp_path / "thick"), healthy=1.0, cortex="thick")
    images = [
        np.asarray(nib.load(load_datalist(str(listed), "training")[0]["image"]).dataobj)
        for listed in (tmp_path / "out" / "datalist.json", thick)
    ]
    assert images[0].shape == images[1].shape
    assert (images[0] != images[1]).any()
    with pytest.raises(InputError, match="cortex"):  # of another set
        render(str(path), str(tmp_path / "thick"), healthy=1.0)
    for options in (
        {"cortex": "fat"},
        {"grades": [4]},
        {"copies": 0},
        {"healthy": 2.0},
        {"min_grade": 0},
        {"fractures": 0},
        {"noise": -1.0},
    ):
        with pytest.raises(InputError, match=next(iter(options))):
            render(str(path), str(tmp_path / "x"), **options)


def test_a_fracture_without_a_grade_is_unknown_in_a_rendering(phantom_set, tmp_path):
    """A fracture that was read without a grade may have a normal shape, which is all that a rendering shows."""
    content = json.loads((phantom_set / "datalist.json").read_text())
    case = next(c for c in content["training"] if (np.asarray(nib.load(phantom_set / c["label"]).dataobj) == 1).any())
    label, vertebrae = (np.asarray(nib.load(phantom_set / case[k]).dataobj) for k in ("label", "vertebrae"))
    fractured = sorted(set(vertebrae[label == 1].tolist()) - {0})
    name = case["vertebrae"].rpartition("/")[2].removesuffix(".nii.gz")
    for grade, expected in (("", 255), ("2", 1)):
        folder = tmp_path / f"grade{grade}"
        folder.mkdir()
        entry = {k: str(phantom_set / case[k]) for k in ("label", "vertebrae")}
        (folder / "masks.json").write_text(json.dumps({"training": [entry]}))
        write_vertebra_table(
            folder / "vertebrae.csv",
            [{"case": name, "label": v, "level": LEVELS[v], "fractured": 1, "grade": grade} for v in fractured],
        )
        made = load_datalist(render(str(folder / "masks.json"), str(folder / "out"), healthy=1.0), "training")[0]
        now, masks = (np.asarray(nib.load(made[k]).dataobj) for k in ("label", "vertebrae"))
        assert np.unique(now[np.isin(masks, fractured)]).tolist() == [expected]


def _masks(phantom_set, path, names):
    content = json.loads((phantom_set / "datalist.json").read_text())
    cases = [c for s in ("training", "validation", "testing") for c in content[s]]
    entries = [{"vertebrae": str(phantom_set / cases[n]["vertebrae"])} for n in names]
    path.write_text(json.dumps({"training": entries}))
    return entries


def test_copies_of_a_mask_without_patient_are_one_patient(phantom_set, tmp_path):
    path = tmp_path / "masks.json"
    _masks(phantom_set, path, [0, 1])
    made = load_datalist(render(str(path), str(tmp_path / "out"), copies=2, spacing=6.0), "training")
    assert len(made) == 4
    assert [c["patient"] for c in made] == [made[0]["patient"]] * 2 + [made[2]["patient"]] * 2
    assert made[0]["patient"] != made[2]["patient"]


def test_another_mask_at_the_place_of_a_finished_one(phantom_set, tmp_path):
    path = tmp_path / "masks.json"
    for entry, name in zip(_masks(phantom_set, path, [0, 1]), "ab", strict=True):
        (tmp_path / name).mkdir()
        mask = nib.load(entry["vertebrae"])
        nib.save(mask, tmp_path / name / "mask.nii.gz")  # names that differ by the folder alone
    path.write_text(json.dumps({"training": [{"vertebrae": f"{n}/mask.nii.gz"} for n in "ab"]}))
    made = load_datalist(render(str(path), str(tmp_path / "out"), spacing=6.0), "training")
    before = [np.asarray(nib.load(c["vertebrae"]).dataobj) for c in made]
    path.write_text(json.dumps({"training": [{"vertebrae": "b/mask.nii.gz"}]}))
    moved = load_datalist(render(str(path), str(tmp_path / "out"), spacing=6.0), "training")
    now = np.asarray(nib.load(moved[0]["vertebrae"]).dataobj)
    assert moved[0]["vertebrae"] == made[0]["vertebrae"]
    assert now.shape != before[0].shape or (now != before[0]).any()


def test_a_label_on_another_grid_is_refused(phantom_set, tmp_path, capsys):
    path = tmp_path / "masks.json"
    (entry,) = _masks(phantom_set, path, [0])
    mask = nib.load(entry["vertebrae"])
    mirrored = mask.affine @ np.diag([-1, 1, 1, 1])
    nib.save(nib.Nifti1Image(np.zeros(mask.shape, np.uint8), mirrored), tmp_path / "label.nii.gz")
    path.write_text(json.dumps({"training": [{**entry, "label": str(tmp_path / "label.nii.gz")}]}))
    with pytest.raises(InputError, match=r"label.nii.gz: mask is up to .* mm off"):
        render(str(path), str(tmp_path / "out"))
