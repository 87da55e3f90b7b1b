# SPDX-License-Identifier: Apache-2.0
"""Scoring and comparing masks on disk: pairing, tables, other grids, and files that cannot be scored."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.vertebra_table import rows_by_case
from scripts.evaluation.compare import compare, read_cases
from scripts.evaluation.score import score, score_command
from scripts.evaluation.statistics import interval_text
from scripts.io.case_naming import case_name

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def masks(number: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Blocks of different places; the last mask is empty."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(number):
        mask = np.zeros((14, 15, 16), np.uint8)
        if k < number - 1:
            x, y, z = rng.integers(1, 6, 3)
            mask[x : x + 6, y : y + 6, z : z + 6] = 1
        made.append(mask)
    return made


@pytest.fixture
def folders(tmp_path):
    for k, mask in enumerate(masks()):
        save(tmp_path / "references" / f"case{k}.nii.gz", mask)
        save(tmp_path / "predictions" / f"case{k}_fracture.nii.gz", np.roll(mask, 1, axis=0))
    return tmp_path


def run(folder, **kwargs) -> dict:
    score_command(str(folder / "predictions"), str(folder / "references"), str(folder / "out"), samples=100, **kwargs)
    return json.loads((folder / "out" / "summary.json").read_text())


def test_result_has_rows_and_a_summary_and_writes_nothing(folders):
    (folders / "predictions" / "case2_fracture.nii.gz").unlink()
    result = score(str(folders / "predictions"), str(folders / "references"), samples=100)
    assert [r["case"] for r in result.rows] == [c.case for c in result.cases] == ["case0", "case1", "case3"]
    assert result.rows[0]["dice"] == pytest.approx(5 / 6, abs=1e-6)
    assert (result.rows[0]["fractures"], result.rows[0]["detected"], result.rows[0]["false_positives"]) == (1, 1, 0)
    dice = result.summary.sections["cases: fractured"]["dice"]
    assert interval_text(dice) == "n too small"
    assert len(result.problems) == 1
    assert "| Dice similarity coefficient (DSC) | 0.833 | n too small | 2 | 2 |" in str(result)
    assert "1 of 4 cases could not be scored" in str(result)
    assert {p.name for p in folders.iterdir()} == {"predictions", "references"}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_pair_is_scored_and_tables_match(folders, workers):
    summary = run(folders, workers=workers)
    rows = list(csv.DictReader((folders / "out" / "cases.csv").open()))
    assert [r["case"] for r in rows] == [f"case{k}" for k in range(4)]
    assert float(rows[0]["dice"]) == pytest.approx(5 / 6)
    assert rows[3]["hd95_mm"] == ""
    assert float(rows[3]["dice"]) == 1.0
    assert summary["scored"] == summary["of"] == 4
    dice = summary["summary"]["cases: fractured"]["dice"]
    assert dice["value"] == pytest.approx(5 / 6, abs=1e-6)
    assert dice["n"] == dice["patients"] == 3
    assert summary["summary"]["fractures"]["sensitivity"]["value"] == 1.0
    text = (folders / "out" / "summary.md").read_text()
    assert "| Dice similarity coefficient (DSC) | 0.833 | n too small | 3 | 3 |" in text
    assert len(list(csv.DictReader((folders / "out" / "fractures.csv").open()))) == 3
    detections = list(csv.DictReader((folders / "out" / "detections.csv").open()))
    assert [(r["case"], r["detection"], r["true_positive"]) for r in detections] == [(f"case{k}", "1", "1") for k in range(3)]
    assert len(summary["references_sha256"]) == 64
    assert len(list((folders / "out" / "worst").glob("*.png"))) == 2  # half of the cases
    plots = list((folders / "out" / "plots").glob("*.png"))
    assert (folders / "out" / "report.html").read_text().count("data:image/png") == 2 + len(plots) >= 4


def test_datalist_has_patients_vertebrae_and_grades(folders):
    data = folders / "data"
    vertebrae = np.zeros((14, 15, 16), np.uint8)
    vertebrae[:, :, :8], vertebrae[:, :, 8:] = 21, 20
    mask = (vertebrae == 20).astype(np.uint8)
    mask[:, :, 0] = 255
    save(data / "labels" / "a.nii.gz", mask)
    save(data / "vertebrae" / "a.nii.gz", vertebrae)
    save(folders / "predictions" / "scan_a_pred.nii.gz", (vertebrae == 20).astype(np.uint8))
    case = {"image": "scan_a_ct.nii.gz", "label": "labels/a.nii.gz", "vertebrae": "vertebrae/a.nii.gz", "patient": "p7"}
    (data / "datalist.json").write_text(json.dumps({"testing": [case]}))
    (data / "vertebrae.csv").write_text("case,label,level,fractured,grade,shape\na,20,L1,1,2,wedge\na,21,L2,0,0,\n")
    score(str(folders / "predictions"), str(data / "datalist.json"), str(folders / "out"), samples=20)
    rows = {r["target"]: r for r in csv.DictReader((folders / "out" / "fractures.csv").open())}
    assert (rows["L1"]["grade"], rows["L1"]["shape"], rows["L1"]["detected"], rows["L1"]["patient"]) == ("2", "wedge", "1", "p7")
    assert rows["L2"]["fractured"] == "0"
    summary = json.loads((folders / "out" / "summary.json").read_text())["summary"]
    assert summary["fractures"]["sensitivity, grade 2"]["value"] == 1.0
    assert summary["vertebrae"]["specificity"]["value"] == 1.0


def test_unreadable_cases_are_reported_and_others_scored(folders, capsys):
    made = folders / "predictions"
    (made / "case0_fracture.nii.gz").unlink()
    save(made / "case1_fracture.nii.gz", np.full((14, 15, 16), np.nan, np.float32))
    (made / "case2_fracture.nii.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match="3 of 4 cases were not scored"):
        run(folders)
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "case0.nii.gz: has no prediction" in text
    assert "case1_fracture.nii.gz: contains NaN" in text
    assert "case2_fracture.nii.gz" in text
    summary = json.loads((folders / "out" / "summary.json").read_text())
    assert (summary["scored"], summary["of"], len(summary["not_scored"])) == (1, 4, 3)
    assert "3 of 4 cases could not be scored" in (folders / "out" / "summary.md").read_text()


def test_different_grid_is_refused_unless_resampled(folders):
    path = folders / "predictions" / "case0_fracture.nii.gz"
    coarse = nib.load(folders / "references" / "case0.nii.gz").get_fdata()[::2].astype(np.uint8)
    save(path, coarse, AFFINE @ np.diag([2.0, 1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="1 of 4"):
        run(folders)
    rows = run(folders, resample=True)["summary"]["cases: fractured"]["dice"]
    assert rows["n"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p * 2.5, "contains fractions"),
        (lambda p: (p * np.arange(1, 15)[:, None, None]).astype(np.uint8), "--predicted"),
        (lambda p: p[1:], "has shape"),
    ],
)
def test_values_and_shapes_of_no_mask_are_refused(folders, capsys, change, message):
    path = folders / "predictions" / "case0_fracture.nii.gz"
    save(path, change(np.asarray(nib.load(path).dataobj)))
    with pytest.raises(InputError, match="1 of 4"):
        run(folders)
    assert message in "".join(capsys.readouterr())


def test_predictions_of_one_name_are_ambiguous(folders, capsys):
    save(folders / "predictions" / "case0_pred.nii.gz", masks()[0])
    with pytest.raises(InputError):
        run(folders)
    assert "neither is used" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["{case}/{case}_seg.nii.gz", "{case}/segmentations/{case}.nii.gz", "{case}/mask.nii.gz"])
def test_one_folder_per_case_is_searched(folders, layout):
    flat = run(folders)["summary"]
    for path in list((folders / "predictions").iterdir()):
        target = folders / "predictions" / layout.format(case=path.name.split("_")[0])
        target.parent.mkdir(parents=True)
        path.rename(target)
    assert run(folders)["summary"] == flat


def test_masks_in_folders_of_one_name_are_ambiguous(folders, capsys):
    for side, mask in enumerate(masks(2)):
        save(folders / "nested" / str(side) / "case0" / "mask.nii.gz", mask)
    with pytest.raises(InputError):
        score_command(str(folders / "nested"), str(folders / "references"), str(folders / "out"), samples=10)
    assert "(expected case0; there: 0_case0, 1_case0)" in capsys.readouterr().out


def test_options_out_of_range_are_one_line(folders):
    for option, message in (
        ({"min_overlap": 0}, "fraction above 0"),
        ({"tolerance_mm": -1}, "distance in mm"),
        ({"empty_reference": "drop"}, "score, exclude"),
        ({"fractured": 255}, "contains ignore_index=255"),
        ({"ignore_index": 0}, "is the background"),
    ):
        with pytest.raises(InputError, match=message):
            run(folders, **option)
    with pytest.raises(InputError, match="no such folder"):
        score(str(folders / "nothing"), str(folders / "references"), str(folders / "out"))


def test_fractures_with_the_ignore_index_are_reported(folders, capsys):
    for path in (folders / "references").iterdir():
        save(path, np.asarray(nib.load(path).dataobj) * np.uint8(255))
    run(folders)
    assert "use --fractured 255 --ignore_index -1" in capsys.readouterr().out
    got = run(folders, fractured=255, ignore_index=-1)["summary"]
    assert got["cases: fractured"]["dice"]["value"] == pytest.approx(5 / 6, abs=1e-6)


def test_canonical_names_have_no_suffixes_of_tools():
    assert {case_name(n) for n in ("a.nii.gz", "a_0000.nii.gz", "a_fracture.nii", "a_ct_pred.mha", "a-seg.nrrd")} == {"a"}
    # Numbers of cases are no endings: only nnU-Net's channels are.
    assert len({case_name(f"phantom-{n:04d}_fracture.nii.gz") for n in (7, 8, 3007, 3013)} | {case_name("s_2019.nii.gz"), "s"}) == 6


def test_runs_are_compared_by_patient(tmp_path):
    for k, mask in enumerate(masks(12, seed=3)):
        save(tmp_path / "references" / f"p{k // 2}_{k}.nii.gz", mask)
        for shift, name in ((2, "worse"), (1, "better")):
            save(tmp_path / name / f"p{k // 2}_{k}.nii.gz", np.roll(mask, shift, axis=1))
    for name in ("worse", "better"):
        out = str(tmp_path / f"out_{name}")
        score(str(tmp_path / name), str(tmp_path / "references"), out, patient="^[^_]+", samples=100)
    text = compare(str(tmp_path / "out_worse"), str(tmp_path / "out_better"), out=str(tmp_path / "c"), metrics="dice")
    row = json.loads((tmp_path / "c" / "comparison.json").read_text())[0]
    assert (row["patients"], row["cases"]) == (6, 12)
    assert row["low"] is row["high"] is None  # six patients
    assert row["difference"] == pytest.approx(11 / 12 / 6, abs=1e-5)
    assert row["p"] == row["p_holm"] == pytest.approx(2 / 2**6)
    assert "| Dice similarity coefficient (DSC) | " in text
    assert "| n too small | " in text
    assert text.count("| 11 of 11 (1.000) | 0.6") == 2  # fractures found by each run, of six patients; one scan has none
    assert text.count("| 0 in 12 scans (0.00) | 0.00 to 0.31 |") == 2
    with pytest.raises(InputError, match="two or more"):
        compare(str(tmp_path / "out_worse"))
    with pytest.raises(InputError, match="must be one or more of"):
        compare(str(tmp_path / "out_worse"), str(tmp_path / "out_better"), metrics="accuracy")
    score(str(tmp_path / "better"), str(tmp_path / "references"), str(tmp_path / "out_scans"), samples=100)  # every scan a patient
    for runs in (("out_worse", "out_scans"), ("out_scans", "out_worse")):
        with pytest.raises(InputError, match=r"case p0_0: is of patient \w+ in one run and of \w+ in another; .* --patient"):
            compare(*(str(tmp_path / run) for run in runs))
    table = tmp_path / "out_better" / "cases.csv"
    table.write_text(table.read_text().replace("detected", "found", 1))  # as version 0.5 wrote it
    assert read_cases(table)["p0_0"]["detected"] == "1"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    with pytest.raises(InputError, match="share a name"):
        compare(str(tmp_path / "out_worse"), str(tmp_path / "out_better"))
    with pytest.raises(InputError, match="no such file"):
        compare(str(tmp_path / "out_worse"), str(tmp_path / "nothing"))


def test_vertebra_rows_of_a_built_set_by_case_name(tmp_path):
    table = tmp_path / "vertebrae.csv"
    table.write_text("case,label,grade\nphantom/a,20,2\nphantom/b,21,1\nrender/b,21,3\nc,22,0\n")
    rows = rows_by_case(table)
    assert rows["a"][20]["grade"] == rows["phantom/a"][20]["grade"] == "2"
    assert rows["c"][22]["grade"] == "0"
    assert "b" not in rows


@pytest.mark.parametrize("ignore_index", [255, 7])
def test_a_reference_that_is_unknown_is_left_out(folders, ignore_index):
    save(folders / "references" / "case3.nii.gz", np.full((14, 15, 16), ignore_index, np.uint8))
    result = score(str(folders / "predictions"), str(folders / "references"), samples=100, ignore_index=ignore_index)
    assert [c.case for c in result.cases] == ["case0", "case1", "case2"]
    (line,) = result.problems
    assert line.startswith(str(folders / "references" / "case3.nii.gz"))
    assert f"every voxel is {ignore_index}" in line
    with pytest.raises(InputError, match="1 of 4 cases were not scored"):
        run(folders, ignore_index=ignore_index)


@pytest.mark.parametrize("folder", ["references", "predictions"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no image" * 50])
def test_a_broken_file_is_reported_under_its_own_path(folders, folder, damage):
    path = folders / folder / ("case1.nii.gz" if folder == "references" else "case1_fracture.nii.gz")
    path.write_bytes(damage(path.read_bytes()))
    (line,) = score(str(folders / "predictions"), str(folders / "references"), samples=100).problems
    assert line.startswith(f"{path}: ")
    assert "\n" not in line


def test_axes_of_length_one_change_no_score(folders):
    before = score(str(folders / "predictions"), str(folders / "references"), samples=100).rows
    for path in (folders / "references" / "case0.nii.gz", folders / "predictions" / "case1_fracture.nii.gz"):
        save(path, np.asarray(nib.load(path).dataobj)[..., None])
    assert score(str(folders / "predictions"), str(folders / "references"), samples=100).rows == before
