# SPDX-License-Identifier: Apache-2.0
"""Splits by patient: sections and folds are disjoint and stratified, patient leakage is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.datalist import write_datalist
from scripts.data.split import continued_split, folds_by_patient, patient_leakage, split, split_by_patient


@pytest.fixture
def datalist(tmp_path):
    """Twelve patients with two cases each, every third patient fractured; two patients in testing."""
    cases = []
    for k in range(24):
        mask = np.zeros((2, 2, 2), np.uint8)
        mask[0, 0, 0] = int(k // 2 % 3 == 0)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / f"m{k}.nii")
        cases.append({"image": f"c{k}.nii", "label": f"m{k}.nii", "patient": f"p{k // 2:02d}"})
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": cases[:18], "validation": cases[18:20], "testing": cases[20:]}))
    return path


def patients(path) -> dict[str, set[str]]:
    content = json.loads(Path(path).read_text())
    return {s: {c["patient"] for c in content[s]} for s in ("training", "validation", "testing")}


def test_a_new_split_keeps_patients_together_and_its_source(datalist):
    before = datalist.read_text()
    path = split(str(datalist), fractions=[0.5, 0.25, 0.25], seed=3)
    assert datalist.read_text() == before
    sections = patients(path)
    assert sum(map(len, sections.values())) == len(set().union(*sections.values())) == 12
    assert [len(p) for p in sections.values()] == pytest.approx([6, 3, 3], abs=1)
    assert patients(split(str(datalist), out=str(datalist.parent / "b.json"), fractions=[0.5, 0.25, 0.25], seed=3)) == sections


def test_the_same_seed_results_in_the_same_folds():
    assert folds_by_patient(list("abcdefgh"), [True, False] * 4, 3, seed=0) == [[3, 4, 6], [0, 1, 7], [2, 5]]


def test_folds_keep_testing_and_validate_every_patient_once(datalist, tmp_path):
    (tmp_path / "deep").mkdir()
    paths = split(str(datalist), out=str(tmp_path / "deep" / "k.json"), folds=3)
    assert [p.rsplit("/", 1)[1] for p in paths] == ["k_fold0.json", "k_fold1.json", "k_fold2.json"]
    folds = [patients(p) for p in paths]
    assert all(f["testing"] == {"p10", "p11"} for f in folds)
    validated = [p for f in folds for p in f["validation"]]
    assert len(validated) == len(set(validated)) == 10
    assert all(not f["training"] & f["validation"] for f in folds)
    fractured = {f"p{k:02d}" for k in range(0, 12, 3)}
    shares = [len(f["validation"] & fractured) for f in folds]
    assert max(shares) - min(shares) <= 1
    case = json.loads(Path(paths[0]).read_text())["training"][0]
    assert (tmp_path / "deep" / case["label"]).resolve().is_file()


def test_patient_leakage_is_refused(datalist):
    content = json.loads(datalist.read_text())
    content["testing"][0]["patient"] = "p03"
    datalist.write_text(json.dumps(content))
    with pytest.raises(InputError, match="patient p03 is in testing and in another section"):
        split(str(datalist), folds=3)
    assert patient_leakage({"training": [{"patient": "a"}], "testing": [{"patient": "a"}, {"patient": "b"}]}) == {
        "a": ["training", "testing"]
    }


def test_bad_arguments_are_one_line(datalist):
    for arguments, words in [
        ({"datalist": "nowhere.json"}, "does not exist"),
        ({"folds": 1}, "from 2 to 10"),
        ({"folds": 11}, "from 2 to 10"),
        ({"fractions": [0.5, 0.1, 0.1]}, "sum to 1"),
        ({"out": "x.txt"}, "must end in .json"),
        ({"out": str(datalist)}, "is the datalist itself"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            split(**({"datalist": str(datalist)} | arguments))
        assert "\n" not in str(caught.value)
    content = json.loads(datalist.read_text())
    del content["training"][1]["patient"]
    datalist.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"c1.nii has no `patient` \(1 case\(s\) without one\)"):
        split(str(datalist))
    (datalist.parent / "m3.nii").write_bytes(b"no image")
    content["training"][1]["patient"] = "p00"
    datalist.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"m3\.nii: cannot be read"):
        split(str(datalist))


def test_split_by_patient_is_stratified_by_fracture():
    patients = [f"p{i // 2}" for i in range(100)]
    fractured = [i // 2 % 3 == 0 for i in range(100)]
    sections = split_by_patient(patients, fractured, seed=1)
    sets = [{patients[i] for i in part} for part in sections.values()]
    assert sum(map(len, sets)) == len(set().union(*sets)) == 50
    assert [len(s) for s in sets] == pytest.approx([35, 5, 10], abs=1)
    shares = [np.mean([fractured[i] for i in part]) for part in sections.values()]
    assert max(shares) - min(shares) < 0.25
    assert sections == split_by_patient(patients, fractured, seed=1)
    assert sections != split_by_patient(patients, fractured, seed=2)


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_small_sets_fill_every_section(n):
    sections = split_by_patient([str(i) for i in range(n)], [True] * n)
    assert all(sections.values())


def test_small_strata_fill_every_section():
    sections = split_by_patient(["a", "b", "c", "d"], [True, True, False, False])
    assert all(sections.values())
    assert [len(part) for part in split_by_patient([1, "1", "a"], [True, False, False]).values() if part]  # 1 and "1" are one
    assert sum(1 for part in split_by_patient([1, "1"], [True, False]).values() if part) == 1


@pytest.mark.parametrize("n", [1, 2, 3, 20])
@pytest.mark.parametrize("fractions", [(0, 0, 1), (1, 0, 0), (0.8, 0, 0.2), (0.5, 0.5, 0), (0, 0.5, 0.5)])
def test_a_fraction_of_zero_leaves_a_section_empty(n, fractions):
    sections = split_by_patient([str(k) for k in range(n)], [k % 2 == 0 for k in range(n)], fractions=fractions)
    sizes = [len(part) for part in sections.values()]
    assert sum(sizes) == n
    assert all(size == 0 for size, fraction in zip(sizes, fractions, strict=True) if fraction == 0)


@pytest.mark.parametrize("patient", [["p1"], {"id": 1}, 1.5, True])
def test_patient_that_is_no_text_is_one_line(tmp_path, patient):
    file = tmp_path / "datalist.json"
    file.write_text(json.dumps({"training": [{"image": "a.nii.gz", "label": "b.nii.gz", "patient": patient}]}))
    with pytest.raises(InputError, match=r"a\.nii\.gz has patient=.*must be text"):
        split(str(file), out=str(tmp_path / "split.json"))


def test_patients_of_an_earlier_split_keep_their_sections(tmp_path):
    patients, fractured = [f"p{k}" for k in range(40)], [k % 3 == 0 for k in range(40)]
    path = tmp_path / "datalist.json"

    def write(names, parts, split=None):
        write_datalist(path, {s: [{"patient": names[i]} for i in part] for s, part in parts.items()}, "set", split)

    first, split, line = continued_split(path, patients, fractured, 1)
    assert (first, line) == (split_by_patient(patients, fractured, 1), "")
    write(patients, first, split)
    more, flags = [*patients, *(f"q{k}" for k in range(20))], [not fractured[0], *fractured[1:], *[True] * 20]
    parts, _, line = continued_split(path, more, flags, 1)
    assert "patients keep their sections" in line
    assert {s: [i for i in part if i < 40] for s, part in parts.items()} == first
    assert [len(parts[s]) for s in parts] == pytest.approx([42, 6, 12], abs=3)
    assert continued_split(path, more, flags, 2)[0] == split_by_patient(more, flags, 2)
    # Patients who are missing for once come back to their sections.
    parts, split, _ = continued_split(path, patients[10:], fractured[10:], 1)
    write(patients[10:], parts, split)
    assert continued_split(path, patients, fractured, 1)[0] == first
    write(patients, first)  # of a version without the seed, which was 0
    assert continued_split(path, patients, fractured, 0)[0] == first
    assert continued_split(path, patients, fractured, 1)[2] == ""
    write(patients, {"testing": range(40)})  # all for testing
    assert continued_split(path, more, flags, 0)[2] == ""


def test_a_set_that_grows_from_two_patients_has_all_sections(tmp_path):
    path, patients = tmp_path / "datalist.json", []
    for k in range(4):
        patients.append(f"p{k}")
        parts, split, _ = continued_split(path, patients, [True] * len(patients))
        write_datalist(path, {s: [{"patient": patients[i]} for i in part] for s, part in parts.items()}, "set", split)
    assert all(parts.values())


def test_folds_of_another_division_do_not_remain(datalist, tmp_path):
    out = str(tmp_path / "own.json")
    assert len(split(str(datalist), out=out, folds=3)) == 3
    assert len(split(str(datalist), out=out, folds=2)) == 2
    assert sorted(p.name for p in tmp_path.glob("own_fold*.json")) == ["own_fold0.json", "own_fold1.json"]
    with pytest.raises(InputError, match=r"own_fold1\.json is one of its folds; choose another name"):
        split(str(tmp_path / "own_fold1.json"), out=out, folds=2)
    with pytest.raises(InputError, match="are not used with --folds"):
        split(str(datalist), out=out, folds=2, fractions=[0.5, 0.3, 0.2])
    with pytest.raises(InputError, match="seed=-1: must be 0 or more"):
        split(str(datalist), out=out, seed=-1)
