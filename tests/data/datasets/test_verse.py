# SPDX-License-Identifier: Apache-2.0
"""VerSe: both naming styles, both forms of the grading table, unknown vertebrae, damaged cases."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from scripts.core.errors import InputError
from scripts.data.datalist import IGNORE_INDEX, read_datalist
from scripts.data.datasets.grades import VertebraGrade, case_name, fracture_mask, read_grades
from scripts.data.datasets.verse import find_cases, unlabelled_bone, verse

GRADING = SHARED / "data" / "grading"
LEVELS = [f"T{i}" for i in range(1, 13)] + [f"L{i}" for i in range(1, 7)]


def write_table(path, rows: dict[tuple[int, int], dict[str, tuple[str, str]]]) -> str:
    with path.open("w", newline="") as file:
        columns = [f"{v}_fx-{k}" for k in "gs" for v in LEVELS]
        writer = csv.DictWriter(file, ["verse_ID", "subject_ID", *columns])
        writer.writeheader()
        for (series, subject), grades in rows.items():
            cells = {f"{v}_fx-{k}": g[i] for v, g in grades.items() for i, k in enumerate("gs")}
            writer.writerow({"verse_ID": series, "subject_ID": subject, **cells})
    return str(path)


def scan(folder, stem: str, labels: tuple[int, ...], mask_dtype=np.uint8, shape=(12, 12, 40)) -> None:
    """Vertebrae are slabs along the last axis with a gap between them; the first one leaves room above it."""
    image = np.full(shape, -50, np.int16)
    mask = np.zeros(shape, mask_dtype)
    for k, label in enumerate(reversed(labels)):
        part = (slice(3, 9), slice(3, 9), slice(4 + 8 * k, 10 + 8 * k))
        image[part], mask[part] = 400, label
    image[4:8, 4:8, 4 + 8 * len(labels) :] = 400  # a vertebra that the upper border cuts: bone without a label
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    ct, seg = folder / "rawdata" / stem.split("_")[0], folder / "derivatives" / stem.split("_")[0]
    for place in (ct, seg):
        place.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, affine), ct / f"{stem}_ct.nii.gz")
    nib.save(nib.Nifti1Image(mask, affine), seg / f"{stem}_seg-vert_msk.nii.gz")


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "verse"
    scan(folder, "sub-verse004", (18, 19, 20))
    scan(folder, "sub-gl003_dir-ax", (20, 21), np.float64)
    scan(folder, "sub-verse410_split-verse267", (21, 22))
    grades = {(4, 4): {"T11": ("0", "0"), "T12": ("2", "1"), "L1": ("x", "x")}, (267, 410): {"L2": ("1", "2"), "L3": ("0", "0")}}
    return folder, write_table(tmp_path / "grades.csv", grades)


def values_by_vertebra(out, case: str) -> dict[int, list[int]]:
    mask, labels = (np.asarray(nib.load(out / d / f"{case}.nii.gz").dataobj) for d in ("labels", "vertebrae"))
    return {int(v): np.unique(mask[labels == v]).tolist() for v in np.unique(labels)}


def test_masks_and_grades_are_joined(tree, tmp_path):
    folder, table = tree
    path = verse(str(folder), str(tmp_path / "out"), table)
    out = tmp_path / "out"
    assert values_by_vertebra(out, "sub-verse004") == {0: [0, IGNORE_INDEX], 18: [0], 19: [1], 20: [IGNORE_INDEX]}
    assert values_by_vertebra(out, "sub-verse410_split-verse267") == {0: [0, IGNORE_INDEX], 21: [1], 22: [0]}
    assert values_by_vertebra(out, "sub-gl003") == {0: [0, IGNORE_INDEX], 20: [IGNORE_INDEX], 21: [IGNORE_INDEX]}
    rows = {(r["case"], r["level"]): r for r in csv.DictReader((out / "vertebrae.csv").open())}
    assert (rows["sub-verse004", "T12"]["grade"], rows["sub-verse004", "T12"]["shape"]) == ("2", "wedge")
    assert rows["sub-verse004", "L1"]["grade"] == ""
    assert float(rows["sub-verse004", "T11"]["volume_ml"]) == pytest.approx(6 * 6 * 6 * 12 / 1000, abs=0.01)
    content = json.loads((tmp_path / "out" / "datalist.json").read_text())
    cases = [c for s in ("training", "validation", "testing") for c in content[s]]
    assert {c["patient"] for c in cases} == {"sub-verse004", "sub-gl003", "sub-verse410"}
    assert all((out / c["image"]).resolve().is_file() for c in cases)
    assert path == str((out / "datalist.json").resolve())


def test_unlabelled_bone_beyond_the_labels_is_ignored(tree, tmp_path):
    folder, table = tree
    verse(str(folder), str(tmp_path / "out"), table)
    mask = np.asarray(nib.load(tmp_path / "out" / "labels" / "sub-verse004.nii.gz").dataobj)
    assert (mask[4:8, 4:8, 30:] == IGNORE_INDEX).all()
    assert (mask[0, 0] == 0).all()


def test_unknown_can_be_background_or_drop_the_case(tree, tmp_path):
    folder, table = tree
    verse(str(folder), str(tmp_path / "a"), table, unknown="background")
    assert values_by_vertebra(tmp_path / "a", "sub-verse004") == {0: [0], 18: [0], 19: [1], 20: [0]}
    verse(str(folder), str(tmp_path / "b"), table, unknown="drop-case", min_grade=2)
    assert sorted(p.name for p in (tmp_path / "b" / "labels").iterdir()) == ["sub-verse410_split-verse267.nii.gz"]
    assert values_by_vertebra(tmp_path / "b", "sub-verse410_split-verse267")[21] == [0]


def test_a_damaged_case_is_left_out_and_a_rerun_resumes(tree, tmp_path, capsys):
    folder, table = tree
    broken = folder / "rawdata" / "sub-verse004" / "sub-verse004_ct.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    with pytest.raises(InputError, match="1 of 3 cases"):
        verse(str(folder), str(tmp_path / "out"), table)
    assert "sub-verse004_ct.nii.gz" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*verse004*"))
    kept = tmp_path / "out" / "labels" / "sub-gl003.nii.gz"
    before = kept.stat().st_mtime_ns
    broken.write_bytes(whole)
    verse(str(folder), str(tmp_path / "out"), table)
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "out" / "labels" / "sub-verse004.nii.gz").is_file()


def test_a_mask_without_ct_is_named(tree, tmp_path, capsys):
    folder, table = tree
    (folder / "rawdata" / "sub-verse004" / "sub-verse004_ct.nii.gz").unlink()
    verse(str(folder), str(tmp_path / "out"), table)
    assert "sub-verse004_seg-vert_msk.nii.gz: has no CT" in capsys.readouterr().out


def test_masks_without_ct_are_not_in_the_datalist(tree, tmp_path):
    folder, table = tree
    (folder / "rawdata" / "sub-verse004" / "sub-verse004_ct.nii.gz").unlink()
    out = tmp_path / "out"
    path = verse(str(folder), str(out), table, masks_only=True)
    assert "sub-verse004" not in (out / "datalist.json").read_text()
    assert path.endswith("datalist.json")
    found = values_by_vertebra(out, "sub-verse004")
    assert found[19] == [1]
    assert found[18] == [0]
    assert found[20] == [IGNORE_INDEX]
    for ct in folder.rglob("*_ct.nii.gz"):
        ct.unlink()
    with pytest.raises(InputError, match=r"3 mask.*0 CT.*--masks_only"):
        verse(str(folder), str(tmp_path / "masks"), table)
    path = verse(str(folder), str(tmp_path / "masks"), table, masks_only=True)
    assert path.endswith("masks.json")
    masks = read_datalist(path)[1]["training"]
    assert len(masks) == 3
    assert not any("image" in case for case in masks)
    assert len((tmp_path / "masks" / "vertebrae.csv").read_text().splitlines()) == 8


def test_without_grades_every_fracture_is_unknown(tree, tmp_path):
    verse(str(tree[0]), str(tmp_path / "out"))
    found = values_by_vertebra(tmp_path / "out", "sub-verse004")
    assert [found[v] for v in (18, 19, 20)] == [[IGNORE_INDEX]] * 3


def test_bad_arguments_are_one_line(tree, tmp_path):
    folder, table = tree
    other = write_table(tmp_path / "other.csv", {(9, 9): {"T1": ("0", "0")}})
    (tmp_path / "empty").mkdir()
    for arguments, words in [
        ((str(tmp_path / "nowhere"), table), "no such folder"),
        ((str(tmp_path / "empty"), table), "contains no file like"),
        ((str(folder), str(tmp_path / "none.csv")), "no such grading table"),
        ((str(folder), other), "no row matches"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            verse(arguments[0], str(tmp_path / "out"), arguments[1])
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="drop-case"):
        verse(str(folder), str(tmp_path / "out"), table, unknown="maybe")


def test_the_naming_of_the_challenges_is_refused(tree, tmp_path):
    (tmp_path / "miccai").mkdir()
    (tmp_path / "miccai" / "verse004_CT-ax_seg.nii.gz").touch()
    with pytest.raises(InputError, match="subject based structure"):
        verse(str(tmp_path / "miccai"), tree[1], str(tmp_path / "out"))


def test_a_grade_out_of_range_is_named(tmp_path):
    with pytest.raises(InputError, match="T3_fx-g='7'"):
        read_grades(write_table(tmp_path / "t.csv", {(1, 1): {"T3": ("7", "0")}}))


def test_case_names():
    assert case_name(7, 7) == "sub-verse007"
    assert case_name(410, 267) == "sub-verse410_split-verse267"


def test_the_sacrum_is_never_unknown():
    labels = np.array([26, 24, 0], np.uint8)
    assert fracture_mask(labels, {24: VertebraGrade(0)}).tolist() == [0, 0, 0]
    assert fracture_mask(labels, {}).tolist() == [0, IGNORE_INDEX, 0]


@pytest.mark.skipif(not GRADING.is_dir(), reason=f"the grading table is not at {GRADING}")
def test_both_forms_of_the_published_table_are_equal():
    pytest.importorskip("openpyxl")
    sheet, text = (read_grades(GRADING / "ryai190138_appendixe1.xlsx"), read_grades(next(GRADING.glob("*appendixE1*.csv"))))
    assert sheet == text
    grades = [g.grade for case in sheet.values() for g in case.values()]
    assert {g: grades.count(g) for g in (0, 1, 2, 3, None)} == {0: 1195, 1: 142, 2: 96, 3: 51, None: 31}


def test_real_scans_have_the_two_published_fractures(verse19, tmp_path):
    verse(str(verse19), str(tmp_path), str(next(GRADING.glob("*appendixE1*.csv"))))
    found = values_by_vertebra(tmp_path, "sub-verse007")
    assert {v for v, values in found.items() if 1 in values} == {19, 20}
    assert all(values == [1] for v, values in found.items() if v in (19, 20))
    assert 1 not in {x for values in values_by_vertebra(tmp_path, "sub-verse006").values() for x in values}


def test_real_masks_without_ct_have_the_severe_fractures(verse19, tmp_path):
    source = verse19.parent / "verse_masks_only"
    assert {"sub-verse004", "sub-verse010", "sub-gl003", "sub-gl017"} <= set(find_cases(source)[1])
    table = next(GRADING.glob("*appendixE1*.csv"))
    verse(str(source), str(tmp_path), str(table), min_grade=3, masks_only=True)
    severe: dict[str, set[str]] = {}
    with (tmp_path / "vertebrae.csv").open() as file:
        for row in csv.DictReader(file):
            if row["fractured"] == "1":
                severe.setdefault(row["case"], set()).add(row["level"])
    assert severe == {"sub-verse004": {"L1"}, "sub-verse009": {"T5", "L3"}, "sub-verse010": {"L1"}}
    found = values_by_vertebra(tmp_path, "sub-verse009")
    assert {v for v, values in found.items() if values == [1]} == {12, 22}
    # The table has no grades of the cervico-thoracic scans.
    found = values_by_vertebra(tmp_path, "sub-gl017")
    assert {x for v, values in found.items() if v for x in values} == {IGNORE_INDEX}


def test_t13_is_not_the_lowest_vertebra(tmp_path):
    scan(tmp_path, "sub-verse005", (28, 20, 21))
    ct, seg = (next(tmp_path.rglob(f"*_{kind}.nii.gz")) for kind in ("ct", "seg-vert_msk"))
    labels = nib.load(seg)
    ignored = unlabelled_bone(nib.load(ct), labels)
    assert ignored[4:8, 4:8, 30:].all()  # the cut vertebra above T13
    mask = np.asarray(labels.dataobj)
    assert not ignored[mask > 0].any()
    assert not ignored[:, :, : int(np.argwhere(mask == 28)[:, 2].min())].any()


def test_other_settings_in_the_same_folder_are_refused(tree, tmp_path):
    folder, table = tree
    verse(str(folder), str(tmp_path / "out"), table)
    with pytest.raises(InputError, match="min_grade=1, now min_grade=2"):
        verse(str(folder), str(tmp_path / "out"), table, min_grade=2)
    same = write_table(tmp_path / "same.csv", {(4, 4): {"T11": ("0", "0"), "T12": ("2", "1"), "L1": ("x", "x")},
                                               (267, 410): {"L2": ("1", "2"), "L3": ("0", "0")}})  # fmt: skip
    verse(str(folder), str(tmp_path / "out"), same)
    other = write_table(tmp_path / "other.csv", {(4, 4): {"T12": ("3", "1")}})
    with pytest.raises(InputError, match="grades_sha256"):
        verse(str(folder), str(tmp_path / "out"), other)
