# SPDX-License-Identifier: Apache-2.0
"""Datalists: absolute paths, sections, reasons for empty sections."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripts.core.errors import InputError
from scripts.data.datalist import load_datalist, read_datalist, relative_case, section_error, write_datalist


def test_paths_are_relative_to_the_folder_of_the_datalist(tmp_path):
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{"image": "a/b.nii.gz", "label": "c.nii.gz"}]}))
    case = load_datalist(str(tmp_path / "datalist.json"), "training")[0]
    assert case == {"image": str(tmp_path / "a/b.nii.gz"), "label": str(tmp_path / "c.nii.gz")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        ("{", "is not valid JSON"),
        ('{"training": 3}', "must be a list"),
        ("{}", "has no `training` case"),
        ('{"training": [{"image": "a"}]}', None),
    ],
)
def test_an_empty_section_has_a_reason(tmp_path, content, reason):
    path = tmp_path / "datalist.json"
    if content is not None:
        path.write_text(content)
    error = section_error(str(path), "training")
    assert error is None if reason is None else reason in error
    assert bool(load_datalist(str(path), "training")) == (reason is None)


def test_parts_are_left_out_by_name(tmp_path):
    path = tmp_path / "datalist.json"
    cases = [{"image": "a", "part": "phantom"}, {"image": "b", "part": "render"}, {"image": "c"}]
    path.write_text(json.dumps({"training": cases, "testing": [{"image": "d"}]}))
    assert [Path(c["image"]).name for c in load_datalist(str(path), "training", without=["render"])] == ["a", "c"]
    with pytest.raises(InputError, match=r"no case of `training` is of the part 'rendr'; did you mean render\?"):
        load_datalist(str(path), "training", without=["rendr"])
    with pytest.raises(InputError, match="its cases name no part"):
        load_datalist(str(path), "testing", without=["render"])
    assert load_datalist(str(path), "validation", without=["render"]) == []  # empty for another reason


def test_a_written_datalist_is_read_back_from_its_folder(tmp_path):
    case = {"image": str(tmp_path / "ct.nii.gz"), "patient": "p"}
    path = tmp_path / "set" / "datalist.json"
    path.parent.mkdir()
    relative = relative_case(case, path)
    assert relative == {"image": str(Path("..") / "ct.nii.gz"), "patient": "p"}
    write_datalist(path, {"testing": [relative]}, "description")
    file, sections = read_datalist(path.parent)
    assert file == path
    assert {s: len(cases) for s, cases in sections.items()} == {"training": 0, "validation": 0, "testing": 1}
    assert json.loads(path.read_text())["numTesting"] == 1
    write_datalist(path, {}, "empty")
    with pytest.raises(InputError, match="has no case"):
        read_datalist(path)


def test_a_file_of_null_is_none(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_text('{"training": [{"image": "a.nii.gz", "label": null, "patient": null}]}')
    assert read_datalist(path)[1]["training"] == [{"image": str(tmp_path / "a.nii.gz"), "patient": None}]


@pytest.mark.parametrize(("key", "value"), [("image", ["a.nii.gz", "b.nii.gz"]), ("label", 3), ("vertebrae", {"a": 1})])
def test_cases_that_are_not_one_path_each_are_refused(tmp_path, key, value):
    path, case = tmp_path / "datalist.json", {"image": "a.nii.gz", "label": "l.nii.gz"}
    path.write_text(json.dumps({"validation": [case, case | {key: value}]}))
    with pytest.raises(InputError, match=rf"datalist.json: `{key}` of case 2 in `validation` is .*: must be the path of one file"):
        read_datalist(path)
    assert read_datalist(path, paths_only=False)[1]["validation"][1][key] == value  # `data check` lists it
