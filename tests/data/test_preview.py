# SPDX-License-Identifier: Apache-2.0
"""The page of a data set: self-contained, names the fractures, reports damaged cases."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from scripts.core.errors import InputError
from scripts.data.preview import preview
from scripts.data.vertebra_table import write_vertebra_table


def test_the_page_shows_every_case_and_is_self_contained(phantom_set, tmp_path):
    page = Path(preview(str(phantom_set / "datalist.json"), out=str(tmp_path / "report.html"))).read_text()
    assert page.count("<figure>") == 4
    assert page.count("data:image/png;base64,") == 5  # the cases and the histograms
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert re.search(r"L\d \(grade 3 (wedge|biconcave|crush)\)", page)
    assert "no fracture" in page
    assert re.search(r"<td>training</td><td>2</td><td>2</td>", page)


def test_captions_are_of_the_scan_not_of_another_of_its_patient(phantom_set, tmp_path):
    case = json.loads((phantom_set / "datalist.json").read_text())["training"][0]
    for name, source in (("images/p1_s2_ct.nii.gz", case["image"]), ("labels/p1_s2.nii.gz", case["label"])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(phantom_set / source, tmp_path / name)
    entry = {"image": "images/p1_s2_ct.nii.gz", "label": "labels/p1_s2.nii.gz", "patient": "p1"}
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [entry]}))
    row = {"label": 20, "fractured": 1, "grade": 2, "shape": "wedge"}
    rows = [{**row, "case": "p1", "level": "T5"}, {**row, "case": "render/p1_s2", "level": "L1"}]  # the second of a built set
    write_vertebra_table(tmp_path / "vertebrae.csv", rows)
    page = Path(preview(str(tmp_path), out=str(tmp_path / "r.html"))).read_text()
    assert "L1 (grade 2 wedge)" in page
    assert "T5 (grade" not in page


def test_a_damaged_case_is_named_and_an_error(phantom_set, tmp_path):
    shutil.copytree(phantom_set, tmp_path / "set")
    broken = next((tmp_path / "set" / "images").glob("*.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match="1 of 4 cases could not be drawn"):
        preview(str(tmp_path / "set"), out=str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    assert page.count("<figure>") == 3
    assert broken.name in page


def test_the_page_states_its_limit(phantom_set, tmp_path):
    page = Path(preview(str(phantom_set), out=str(tmp_path / "r.html"), limit=1)).read_text()
    assert "3 more cases are not shown" in page
    assert page.count("<figure>") == 1


def test_a_missing_datalist_is_one_line(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        preview(str(tmp_path / "x.json"))
