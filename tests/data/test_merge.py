# SPDX-License-Identifier: Apache-2.0
"""Merged datalists: sections, parts, tables of vertebrae, repeated merges, and sets that do not fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripts.core.errors import InputError
from scripts.data.datalist import load_datalist, read_datalist, write_datalist
from scripts.data.merge import merge
from scripts.data.vertebra_table import rows_by_case, rows_of_entry, write_vertebra_table


def write_set(folder: Path, patients: str = "ab", grade: int = 1, part: str | None = None) -> Path:
    """Write a set with a case per patient, the last one for testing, without the files that it names."""
    keys = {} if part is None else {"part": part}
    cases = [{"image": f"images/{p}.nii.gz", "label": f"labels/{p}.nii.gz", "patient": p, **keys} for p in patients]
    folder.mkdir(parents=True)
    write_datalist(folder / "datalist.json", {"training": cases[:-1], "testing": cases[-1:]}, "set")
    write_vertebra_table(folder / "vertebrae.csv", [{"case": p, "label": 20, "level": "L1", "grade": grade} for p in patients])
    return folder


def names(path: str, section: str) -> list[str]:
    return [Path(case["image"]).name.split(".")[0] for case in load_datalist(path, section)]


def test_cases_keep_section_and_files(tmp_path):
    sets = [write_set(tmp_path / "one"), write_set(tmp_path / "two", "cde")]
    path = merge([str(s) for s in sets], str(tmp_path / "out"))
    assert (names(path, "training"), names(path, "testing")) == (["a", "c", "d"], ["b", "e"])
    assert load_datalist(path, "training")[1]["image"].endswith("two/images/c.nii.gz")
    assert json.loads(Path(path).read_text())["training"][0]["image"] == "../one/images/a.nii.gz"


def test_a_section_for_all_or_for_each(tmp_path):
    sets = [str(write_set(tmp_path / "one")), str(write_set(tmp_path / "two", "cde"))]
    path = merge(sets, str(tmp_path / "out"), into="training")
    assert (len(names(path, "training")), names(path, "testing")) == (5, [])
    path = merge(sets, str(tmp_path / "out"), into=["training", "testing"])
    assert (names(path, "training"), names(path, "testing")) == (["a", "b"], ["c", "d", "e"])


def test_parts_are_those_of_the_set_or_its_folder(tmp_path):
    sets = [str(write_set(tmp_path / "one", part="render")), str(write_set(tmp_path / "two", "cd"))]
    path = merge(sets, str(tmp_path / "out"))
    assert [c["part"] for c in load_datalist(path, "training")] == ["render", "two"]
    assert names(path, "training") == ["a", "c"]
    assert [Path(c["image"]).name for c in load_datalist(path, "training", without=["two"])] == ["a.nii.gz"]


def test_rows_of_vertebrae_are_those_of_each_set(tmp_path):
    sets = [write_set(tmp_path / "one", "ab", 1), write_set(tmp_path / "two", "ab", 3)]
    path = merge([str(s) for s in sets], str(tmp_path / "out"), into="training")
    rows = rows_by_case(Path(path).parent / "vertebrae.csv")
    assert [rows_of_entry(rows, c)[20]["grade"] for c in load_datalist(path, "training")] == ["1", "1", "3", "3"]
    again = merge([path, str(write_set(tmp_path / "three", "x"))], str(tmp_path / "more"))
    rows = rows_by_case(Path(again).parent / "vertebrae.csv")
    assert [rows_of_entry(rows, c)[20]["grade"] for c in load_datalist(again, "training")] == ["1", "1", "3", "3"]
    assert sum(map(len, read_datalist(again)[1].values())) == 5


def test_sets_that_do_not_fit_are_refused(tmp_path):
    one, two = str(write_set(tmp_path / "one")), str(write_set(tmp_path / "x" / "one", "ab", 3))
    with pytest.raises(InputError, match=r"both have a case one/a; rename"):
        merge([one, two], str(tmp_path / "out"))
    other = str(write_set(tmp_path / "two", "bc"))
    with pytest.raises(InputError, match=r"1 patient\(s\) in several sections: b in training and testing; put"):
        merge([one, other], str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"did you mean training\?"):
        merge([one, other], str(tmp_path / "out"), into="trainig")
    with pytest.raises(InputError, match="has 1 values for 2 data sets; must"):
        merge([one, other], str(tmp_path / "out"), into=["training"])
    with pytest.raises(InputError, match="choose another folder"):
        merge(one, one)
    with pytest.raises(InputError, match=r"no_set.*does not exist"):
        merge([one, str(tmp_path / "no_set")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
