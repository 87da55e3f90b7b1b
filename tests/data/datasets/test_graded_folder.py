# SPDX-License-Identifier: Apache-2.0
"""Own vertebra masks and a table of grades: labels, unknown grades, files of TotalSegmentator, rows that do not fit the masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import SHARED
from scripts.core.errors import InputError
from scripts.core.vertebrae import LEVELS
from scripts.data.datasets.folder import folder
from scripts.data.datasets.verse import verse

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
LEVEL_ORDER = (26, 21, 20, 19)  # from feet to head
REAL = SHARED / "data"


def vertebrae(order=LEVEL_ORDER) -> np.ndarray:
    labels = np.zeros((8, 8, 4 * len(order)), np.uint8)
    for k, label in enumerate(order):
        labels[2:6, 2:6, 4 * k : 4 * k + 3] = label
    return labels


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Three scans of two patients with masks of S1, L2, L1 and T12."""
    monkeypatch.chdir(tmp_path)
    for name in ("p1_a", "p1_b", "p2_a"):
        save(Path("images") / f"{name}_ct.nii.gz", np.full((8, 8, 16), -500, np.int16))
        save(Path("masks") / f"{name}_seg-vert_msk.nii.gz", vertebrae())
    return tmp_path


def run(text: str, out: str = "out", **options) -> str:
    Path("cases.csv").write_text(text)
    return folder("images", "masks", out=out, table="cases.csv", **options)


def values(name: str, out: str = "out") -> dict[int, int]:
    """Value of the training label in every vertebra; a vertebra has one."""
    label = np.asarray(nib.load(f"{out}/labels/{name}.nii.gz").dataobj)
    assert not label[vertebrae() == 0].any()
    found = {v: np.unique(label[vertebrae() == v]).tolist() for v in LEVEL_ORDER}
    assert all(len(v) == 1 for v in found.values())
    return {v: content[0] for v, content in found.items()}


def rows(out: str = "out") -> dict[tuple[str, str], dict]:
    with open(f"{out}/vertebrae.csv", encoding="utf-8") as file:
        return {(r["case"], r["level"]): r for r in csv.DictReader(file)}


def entries(path: str) -> dict[str, dict]:
    content = json.loads(Path(path).read_text())
    return {
        Path(c["label"]).name.split(".")[0]: c | {"section": s} for s in ("training", "validation", "testing") for c in content[s]
    }


def test_vertebra_masks_are_used_beside_masks_of_fractures(own):
    """With grades the masks are of vertebrae, in a folder that has masks of fractures, too."""
    for name in ("p1_a", "p1_b", "p2_a"):
        save(Path("masks") / f"{name}_fracture.nii.gz", (vertebrae() == 19).astype(np.uint8))
        Path("masks", f"{name}_seg-vert_msk.nii.gz").rename(Path("masks", f"{name}_vertebrae.nii.gz"))
    folder("images", "masks", write_table="template.csv")
    assert {r["level"] for r in csv.DictReader(Path("template.csv").read_text().splitlines())} == {"L2", "L1", "T12"}
    run("case;patient;level;grade;shape\np1_a;A;T12;2;wedge\np1_b;A;20;x;\np2_a;B;;0;\n")
    assert values("p1_a") == {26: 0, 21: 0, 20: 0, 19: 1}


def test_a_list_of_fractures_makes_the_others_intact(own, capsys):
    path = run("case;patient;level;grade;shape\np1_a;A;T12;2;wedge\np1_b;A;20;x;\np2_a;B;;0;\n")
    assert values("p1_a") == {26: 0, 21: 0, 20: 0, 19: 1}
    assert values("p1_b") == {26: 0, 21: 0, 20: 255, 19: 0}
    assert values("p2_a") == {26: 0, 21: 0, 20: 0, 19: 0}
    table = rows()
    assert [table["p1_a", "T12"][k] for k in ("fractured", "grade", "shape")] == ["1", "2", "wedge"]
    assert [table["p1_b", "L1"][k] for k in ("fractured", "grade")] == ["", ""]
    assert [table["p2_a", "L2"][k] for k in ("fractured", "grade")] == ["0", "0"]
    found = entries(path)
    assert {k: c["patient"] for k, c in found.items()} == {"p1_a": "A", "p1_b": "A", "p2_a": "B"}
    assert found["p1_a"]["section"] == found["p1_b"]["section"]
    assert all(Path("out", c["vertebrae"]).is_file() for c in found.values())
    printed = capsys.readouterr().out
    assert "taken as intact, as the table lists fractures alone" in printed
    assert "12 vertebrae: 1 fractured, 7 intact, 4 unknown" in printed
    assert "guessed" not in printed


def test_rows_of_intact_vertebrae_make_the_others_unknown(own, capsys):
    text = "case,level,grade\np1_a,T12,1\np1_a,L1,0\np1_b,L2,3\np2_a,L2,0\n"
    run(text)
    assert values("p1_a") == {26: 0, 21: 255, 20: 0, 19: 1}
    assert "taken as unknown (255)" in capsys.readouterr().out
    run(text, out="other", unlisted="intact", min_grade=2)
    assert values("p1_a", "other") == {26: 0, 21: 0, 20: 0, 19: 0}
    assert rows("other")["p1_a", "T12"]["grade"] == "1"


def test_a_corrected_row_converts_its_case_alone(own):
    with pytest.raises(InputError, match="2 of 3 cases were skipped"):
        run("case,level,grade\np1_a,T12,2\np1_b,L5,1\np2_a,L9,1\n")
    assert set(entries("out/datalist.json")) == {"p1_a"}
    before = Path("out/labels/p1_a.nii.gz").stat().st_mtime_ns
    run("case,level,grade\np1_a,T12,2\np1_b,L1,1\np2_a,L2,1\n")
    assert Path("out/labels/p1_a.nii.gz").stat().st_mtime_ns == before
    assert values("p1_b")[20] == values("p2_a")[21] == 1
    run("case,level,grade\np1_a,L1,2\np1_b,L1,1\np2_a,L2,1\n")
    assert values("p1_a") == {26: 0, 21: 0, 20: 1, 19: 0}


def test_rows_and_masks_that_do_not_fit_are_one_line_each(own, capsys):
    save(Path("masks") / "p1_b_seg-vert_msk.nii.gz", vertebrae((45, 44, 43, 42)))
    with pytest.raises(InputError, match="3 of 4 cases were skipped, see above"):
        run("case,level,grade\np1_a,L5,2\np1_b,L1,1\np3,L1,1\np2_a,L1,1\n")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == 3
    for words in ("L5 has grade 2, but is not in", "contains the labels [42, 43, 44, 45]", "no image and mask of case p3"):
        assert sum(words in line for line in lines) == 1
    with pytest.raises(InputError):
        run("case,level,grade\np1_a,L1,2\n", out="few")
    assert "has no row in cases.csv; add one, of a case without fracture: p2_a,,,,0" in capsys.readouterr().out


def test_folders_of_totalsegmentator_are_vertebra_masks(own):
    for name in ("p1_a", "p1_b", "p2_a"):
        for v in LEVEL_ORDER:
            path = Path("total") / name / "segmentations" / f"vertebrae_{LEVELS[v]}.nii.gz"
            save(path, (vertebrae() == v).astype(np.uint8))
    Path("cases.csv").write_text("case,level,grade\np1_a,T12,2\np1_b,,0\np2_a,L2,1\n")
    folder("images", "total", out="out", table="cases.csv")
    assert values("p1_a") == {26: 0, 21: 0, 20: 0, 19: 1}
    assert values("p2_a") == {26: 0, 21: 1, 20: 0, 19: 0}
    folder("images", "total", out="named", fractured=[19, 20])
    assert values("p1_a", "named") == {26: 0, 21: 0, 20: 1, 19: 1}


def test_a_table_to_fill_in_lists_every_vertebra_once(own, capsys):
    folder("images", "masks", write_table="t.csv", patient="(*)_*")
    lines = Path("t.csv").read_text().splitlines()
    assert lines[:4] == ["case,patient,level,label,grade,shape", "p1_a,p1,T12,19,,", "p1_a,p1,L1,20,,", "p1_a,p1,L2,21,,"]
    assert len(lines) == 10
    with pytest.raises(InputError, match="exists, and may hold grades"):
        folder("images", "masks", write_table="t.csv")
    folder("images", "masks", out="out", table="t.csv")  # nothing is filled in
    assert values("p1_a") == {26: 0, 21: 255, 20: 255, 19: 255}
    assert "12 vertebrae: 0 fractured, 0 intact, 12 unknown" in capsys.readouterr().out


def test_options_that_contradict_the_table_are_refused(own):
    text = "case,level,grade\np1_a,T12,2\n"
    for options, words in (
        ({"fractured": 1}, "is of masks of fractures"),
        ({"unknown": 9}, "is of masks of fractures"),
        ({"unlisted": "drop"}, "one of intact, ignore"),
        ({"min_grade": 4}, "must be 1, 2 or 3"),
    ):
        with pytest.raises(InputError, match=words):
            run(text, **options)
    with pytest.raises(InputError, match="needs LABELS"):
        folder("images", out="out", table="cases.csv")
    with pytest.raises(InputError, match="--out is missing"):
        folder("images", "masks")


@pytest.mark.skipif(not (REAL / "verse19").is_dir(), reason=f"VerSe is not at {REAL}")
def test_a_table_makes_the_labels_of_the_verse_converter(tmp_path):
    source = REAL / "verse19"
    verse(str(source), str(tmp_path / "verse"), str(REAL / "grading" / "loeffler2020_appendixE1_VerSe_dataset.csv"))
    table = tmp_path / "t.csv"
    table.write_text("case;level;grade;shape\nsub-verse007_ct;Th12;2;1\nsub-verse007_ct;20;2;biconcave\nsub-verse006;;0;\n")
    folder(str(source / "rawdata"), str(source / "derivatives"), out=str(tmp_path / "own"), table=str(table))
    for name in ("sub-verse006", "sub-verse007"):
        first, second = (np.asarray(nib.load(tmp_path / f / "labels" / f"{name}.nii.gz").dataobj) for f in ("verse", "own"))
        np.testing.assert_array_equal(first, second)
    assert (tmp_path / "verse" / "vertebrae.csv").read_text() == (tmp_path / "own" / "vertebrae.csv").read_text()
