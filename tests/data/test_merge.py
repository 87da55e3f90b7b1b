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
    sets = [write_set(tmp_path / "one", "ab", 1), write_set(tmp_path / "two", "cd", 3)]
    path = merge([str(s) for s in sets], str(tmp_path / "out"), into="training")
    evaluated = rows_by_case(Path(path).parent / "vertebrae.csv")  # the evaluation finds rows by the name of the label
    assert [evaluated[name][20]["grade"] for name in "abcd"] == ["1", "1", "3", "3"]
    rows = rows_by_case(Path(path).parent / "vertebrae.csv")
    assert [rows_of_entry(rows, c)[20]["grade"] for c in load_datalist(path, "training")] == ["1", "1", "3", "3"]
    again = merge([path, str(write_set(tmp_path / "three", "x"))], str(tmp_path / "more"))
    rows = rows_by_case(Path(again).parent / "vertebrae.csv")
    assert [rows_of_entry(rows, c)[20]["grade"] for c in load_datalist(again, "training")] == ["1", "1", "3", "3"]
    assert sum(map(len, read_datalist(again)[1].values())) == 5
    (sets[0] / "vertebrae.csv").unlink()
    merge(str(sets[0]), str(tmp_path / "more"))
    assert not (tmp_path / "more" / "vertebrae.csv").exists()  # that of the earlier merge


def test_repeated_cases_and_lists_of_one_folder_are_kept(tmp_path):
    one = write_set(tmp_path / "one", "ab")
    repeated = read_datalist(one)[1]["training"] * 3
    write_datalist(one / "repeated.json", {"training": repeated}, "three times")
    path = merge([str(one), str(one / "repeated.json")], str(tmp_path / "out"))
    assert (names(path, "training"), names(path, "testing")) == (["a"] * 4, ["b"])


def test_cases_of_one_name_are_refused_where_one_has_grades(tmp_path):
    one, two = write_set(tmp_path / "one", "ab"), write_set(tmp_path / "two", "ac")
    for folder in (two, one):
        (folder / "vertebrae.csv").rename(folder / "other.csv")
        with pytest.raises(InputError, match=r"one/labels/a.nii.gz and .*two/labels/a.nii.gz: have one name.*; rename"):
            merge([str(one), str(two)], str(tmp_path / "out"), into="training")
        (folder / "other.csv").rename(folder / "vertebrae.csv")
    again = write_set(tmp_path / "more" / "one", "a", grade=3)
    with pytest.raises(
        InputError, match=r"one/labels/a.nii.gz and .*more/one/labels/a.nii.gz: have one name in folders of one name"
    ):
        merge([str(one), str(again)], str(tmp_path / "out"), into="training")
    for folder in (one, two):
        (folder / "vertebrae.csv").unlink()
    assert len(names(merge([str(one), str(two)], str(tmp_path / "out"), into="training"), "training")) == 4


def test_cases_of_one_name_have_the_grades_of_their_folder(tmp_path):
    sets = [write_set(tmp_path / "thin", "ab"), write_set(tmp_path / "thick", "ac", grade=3)]
    for out in ("out", "again"):
        path = merge([str(s) for s in sets], str(tmp_path / out), into="training")
        rows = rows_by_case(Path(path).parent / "vertebrae.csv")
        assert [rows_of_entry(rows, c)[20]["grade"] for c in load_datalist(path, "training")] == ["1", "1", "3", "3"]
        assert names(path, "training") == ["a", "b", "a", "c"]
        sets = [Path(path)]


def test_one_patient_of_several_sets_is_named(tmp_path, capsys):
    one, two = write_set(tmp_path / "one", "ab"), write_set(tmp_path / "two", "bc")
    for folder in (one, two):
        (folder / "vertebrae.csv").unlink()
    merge([str(one), str(two)], str(tmp_path / "out"), into="training")
    assert "1 patient(s) occur in several sets and count as one person each: b" in capsys.readouterr().err


def test_sets_that_do_not_fit_are_refused(tmp_path):
    one, other = write_set(tmp_path / "one"), write_set(tmp_path / "two", "bc")
    (one / "vertebrae.csv").unlink(), (other / "vertebrae.csv").unlink()
    one, other = str(one), str(other)
    with pytest.raises(InputError, match=r"1 patient\(s\) in several sections: b in training and testing; put"):
        merge([one, other], str(tmp_path / "out"))
    plain = tmp_path / "plain"
    plain.mkdir()
    write_datalist(plain / "datalist.json", {"training": [{"image": "a.nii.gz"}], "testing": [{"image": "a.nii.gz"}]}, "twice")
    with pytest.raises(InputError, match=r"plain/a.nii.gz: is in testing and training; put"):
        merge(str(plain), str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"did you mean training\?"):
        merge([one, other], str(tmp_path / "out"), into="trainig")
    with pytest.raises(InputError, match="has 1 values for 2 data sets; must"):
        merge([one, other], str(tmp_path / "out"), into=["training"])
    with pytest.raises(InputError, match="choose another folder"):
        merge(one, one)
    with pytest.raises(InputError, match=r"no_set.*does not exist"):
        merge([one, str(tmp_path / "no_set")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_another_set_is_not_overwritten(tmp_path):
    sets = [str(write_set(tmp_path / "one")), str(write_set(tmp_path / "two", "cde"))]
    other = write_set(tmp_path / "other", "xyz")
    before = {path: path.read_text() for path in other.iterdir()}
    with pytest.raises(InputError, match="other: has another data set, which would be overwritten"):
        merge(sets, str(other))
    assert {path: path.read_text() for path in other.iterdir()} == before


def test_one_scan_by_two_paths_is_in_one_section(tmp_path):
    for name, patient, section in (("one", "a", "training"), ("two", "b", "testing")):
        (tmp_path / name).mkdir()
        entry = {"image": "../scans/ct.nii.gz" if name == "one" else "../two/../scans/ct.nii.gz", "patient": patient}
        write_datalist(tmp_path / name / "datalist.json", {section: [entry]}, "set")
    with pytest.raises(InputError, match=r"ct\.nii\.gz: is in testing and training"):
        merge([str(tmp_path / name) for name in ("one", "two")], str(tmp_path / "out"))


def test_no_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="names no data set"):
        merge([], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
