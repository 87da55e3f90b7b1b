# SPDX-License-Identifier: Apache-2.0
"""``score`` per vertebra: outputs of inference, instance masks of other tools, and files that do not fit together."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.core.files import write_table
from scripts.core.vertebrae import LEVELS
from scripts.evaluation.score import score, score_command
from scripts.evaluation.vertebra_tables import (
    DECISION_COLUMNS,
    decision_row,
    instance_rows,
    refuse_foreign_table,
    write_vertebra_tables,
)
from vertebra_files import SHAPE, record, renumbered, save, spine, write_inference, write_reference

ALL = "decisions per vertebra: all grades"
CASES = {"a": (19, 20, 21, 22), "b": (20, 21, 22, 23)}
# Fractured in the reference, with grade and shape; all others are intact.
FRACTURES = {"a": {20: (2, "wedge")}, "b": {21: (3, "crush"), 22: (1, "wedge")}}
PROBABILITY = {("a", 20): 0.9, ("b", 21): 0.8, ("b", 22): 0.3, ("a", 22): 0.6}


@pytest.fixture
def data(tmp_path):
    """Reference set and output folder of inference: one fracture below the threshold, one intact vertebra above it."""
    entries, output = [], {}
    for case, labels in CASES.items():
        vertebrae = spine(*labels)
        rows = {v: {"fractured": 0, "grade": 0} for v in labels}
        rows |= {v: {"fractured": 1, "grade": g, "shape": s, "loss_anterior": 0.3} for v, (g, s) in FRACTURES[case].items()}
        entries.append(write_reference(tmp_path / "data", case, vertebrae, rows, patient=f"patient {case}"))
        numbers = {v: k for k, v in enumerate(labels, 1)}
        records = [
            record(k, PROBABILITY.get((case, v), 0.1), measured_grade=int(rows[v]["grade"]), loss_from_neighbours=0.25)
            for v, k in numbers.items()
        ]
        output[f"{case}_ct"] = renumbered(vertebrae, numbers), records
    (tmp_path / "data" / "datalist.json").write_text(json.dumps({"testing": entries}))
    write_inference(tmp_path / "predictions", output)
    return tmp_path


def run(root, out=None, **options):
    """Result of ``score``; most tests write nothing, because the figures take seconds."""
    return score(str(root / "predictions"), str(root / "data"), out, samples=50, **options)


def rows_of(result) -> dict:
    """Rows of ``vertebrae.csv`` by case and level."""
    return {(d.case, d.level): decision_row(d) for case in result.cases for d in case.vertebrae.decisions}


def test_output_of_inference_has_decisions_and_instances(data):
    result = run(data, str(data / "out"))
    sections = result.summary.sections
    rates = sections[ALL]
    assert [(rates[k].events, rates[k].n) for k in ("sensitivity", "specificity", "ppv")] == [(2, 3), (4, 5), (2, 3)]
    assert rates["auc"].value == pytest.approx(14 / 15)
    assert sections["decisions per vertebra: grade 2 or 3"]["sensitivity"].value == 1
    assert sections["vertebra instances"]["panoptic quality"].value == 1
    assert sections["measured grade"]["weighted kappa (linear)"].value == 1
    rows = {(r["case"], r["level"]): r for r in csv.DictReader((data / "out" / "vertebrae.csv").open())}
    assert len(rows) == 8
    assert (rows["a", "L1"]["probability"], rows["a", "L1"]["flagged"], rows["a", "L1"]["instance"]) == ("0.9", "1", "2")
    assert (rows["b", "L3"]["fractured"], rows["b", "L3"]["flagged"], rows["b", "L3"]["patient"]) == ("1", "0", "patient b")
    assert rows == {key: {k: str(v) for k, v in row.items()} for key, row in rows_of(result).items()}
    results = [r["result"] for r in csv.DictReader((data / "out" / "instances.csv").open())]
    assert results == ["matched"] * 8
    scans = [
        (r["case"], r["vertebrae"], r["missed"], r["dice_of_all"]) for r in csv.DictReader((data / "out" / "scans.csv").open())
    ]
    assert scans == [(case, "4", "0", "1.0") for case in ("a", "b")]
    content = json.loads((data / "out" / "summary.json").read_text())
    assert content["summary"][ALL]["sensitivity"]["events"] == 2
    assert sum(b["n"] for b in content["reliability"]) == 8
    assert content["grades"]["vertebrae"][0][0] == 5
    assert {"ece", "panoptic quality", "decisions per vertebra"} <= set(content["definitions"])
    assert {"roc.png", "reliability.png", "grades.png"} <= {p.name for p in (data / "out" / "plots").iterdir()}
    page = (data / "out" / "report.html").read_text()
    assert all(text in page for text in (ALL, "vertebra instances", "2 of 3 (few)", "reference grade", "measured 3"))
    assert "| fractured, flagged (sensitivity) | 0.667 |" in (data / "out" / "summary.md").read_text()


def test_order_of_the_numbers_does_not_matter(data):
    before = run(data).summary.sections
    for case, labels in CASES.items():
        other = dict(zip(range(1, 5), (40, 7, 200, 11), strict=True))
        path = data / "predictions" / f"{case}_ct_vertebrae.nii.gz"
        save(path, renumbered(np.asarray(nib.load(path).dataobj), other))
        text = (data / "predictions" / "vertebrae.csv").read_text().splitlines()
        text = [
            ",".join([c[0], str(other[int(c[1])]), *c[2:]]) if (c := line.split(","))[0] == f"{case}_ct" else line for line in text
        ]
        (data / "predictions" / "vertebrae.csv").write_text("\n".join(text) + "\n")
        assert len(labels) == 4
    assert repr(run(data).summary.sections) == repr(before)


def test_rows_of_the_json_without_a_table(data):
    before = run(data).summary.sections[ALL]
    (data / "predictions" / "vertebrae.csv").unlink()
    assert repr(run(data).summary.sections[ALL]) == repr(before)


def test_missed_and_fused_vertebrae(data):
    path = data / "predictions" / "a_ct_vertebrae.nii.gz"
    fused = np.asarray(nib.load(path).dataobj).copy()
    fused[fused == 3] = 2  # L1, fractured, and L2
    save(path, fused)
    result = run(data)
    sections = result.summary.sections
    assert (sections[ALL]["missed vertebrae"].events, sections[ALL]["sensitivity"].events) == (2, 1)
    assert sections["vertebra instances"]["recall"].value == 6 / 8
    assert rows_of(result)["a", "L1"]["missed"] == 1
    results = [row["result"] for case in result.cases for row in instance_rows(case.case, case.vertebrae)]
    assert sorted(results) == ["false positive", *["matched"] * 6, "missed", "missed"]


def test_scan_without_a_found_vertebra(data):
    cases = {"b_ct": (np.zeros(SHAPE, np.uint8), [])}
    for path in (data / "predictions").rglob("*"):
        if path.is_file() and path.name.startswith("b_"):
            path.unlink()
    table = (data / "predictions" / "vertebrae.csv").read_text()
    write_inference(data / "predictions", cases)
    (data / "predictions" / "vertebrae.csv").write_text("\n".join(x for x in table.splitlines() if not x.startswith("b_")) + "\n")
    rates = run(data, str(data / "out")).summary.sections[ALL]
    scans = {r["case"]: (r["matched"], r["missed"], r["dice_of_all"]) for r in csv.DictReader((data / "out" / "scans.csv").open())}
    assert scans["b"] == ("0", "4", "0.0")
    assert (rates["missed vertebrae"].events, rates["missed vertebrae"].n) == (4, 8)
    assert (rates["sensitivity"].events, rates["sensitivity"].n) == (1, 3)


def test_scans_of_one_file_name_are_paired_by_their_folders(data):
    """Images ``a/ct.nii.gz`` and ``b/ct.nii.gz``, the layout of TotalSegmentator; inference names them a/ct and b/ct."""
    content = json.loads((data / "data" / "datalist.json").read_text())
    for entry in content["testing"]:
        case = entry["label"].split("/")[1].split(".")[0]
        for key in ("label", "vertebrae"):
            path = f"{case}/{key}.nii.gz"
            save(data / "data" / path, np.asarray(nib.load(data / "data" / entry[key]).dataobj))
            entry[key] = path
        entry["image"] = f"{case}/ct.nii.gz"
    before = {(c, level): row["probability"] for (c, level), row in rows_of(run(data)).items()}
    (data / "data" / "datalist.json").write_text(json.dumps(content))
    nested = {}
    for case, labels in CASES.items():
        numbers = {v: k for k, v in enumerate(labels, 1)}
        records = [record(k, PROBABILITY.get((case, v), 0.1)) for v, k in numbers.items()]
        nested[f"{case}/ct"] = renumbered(spine(*labels), numbers), records
    shutil.rmtree(data / "predictions")
    write_inference(data / "predictions", nested)
    result = run(data)
    assert result.problems == []
    rows = rows_of(result)
    assert {key: row["probability"] for key, row in rows.items()} == before
    assert str(rows["a", "L1"]["grade"]) == "2"


def test_tables_of_instances_do_not_outlive_a_run_without(tmp_path):
    for name in ("instances.csv", "scans.csv"):
        (tmp_path / name).write_text("case\na\n")
    write_vertebra_tables(tmp_path, [])
    assert [p.name for p in tmp_path.iterdir()] == ["vertebrae.csv"]


def test_rows_by_label_without_instances(data):
    named = [record(k, 0.9 if v == 20 else 0.1, label=v, level_source="mask") for k, v in enumerate((19, 20, 21), 1)]
    for path in (data / "predictions").rglob("*.*"):
        path.unlink()
    write_inference(data / "predictions", {"a_ct": (None, named), "b_ct": (None, [])})
    result = run(data)
    assert "vertebra instances" not in result.summary.sections
    assert result.summary.sections[ALL]["missed vertebrae"].events == 5
    assert rows_of(result)["a", "L1"]["flagged"] == 1
    unnamed = [record(1, 0.9)]
    write_inference(data / "predictions", {"a_ct": (None, unnamed), "b_ct": (None, [])})
    result = run(data)
    assert [line for line in result.problems if "without a label" in line and "--predicted_vertebrae" in line]


def other_tool(root) -> None:
    """Masks of fractures of another tool, without rows."""
    for path in (root / "predictions").rglob("*.*"):
        path.unlink()
    for case, labels in CASES.items():
        save(root / "predictions" / f"{case}.nii.gz", (spine(*labels) == (20 if case == "a" else 21)).astype(np.uint8))


def test_masks_of_another_tool_with_instances_and_probabilities(data):
    other_tool(data)
    plain = run(data).summary.sections
    assert [(plain[ALL][k].events, plain[ALL][k].n) for k in ("sensitivity", "specificity")] == [(2, 3), (5, 5)]
    assert "vertebra instances" not in plain
    assert "missed vertebrae" not in plain[ALL]
    for case, labels in CASES.items():
        save(data / "instances" / f"{case}_seg.nii.gz", renumbered(spine(*labels), {v: v for v in labels[1:]}))
        save(data / "maps" / f"{case}.nii.gz", np.where(spine(*labels) == labels[1], 0.75, 0.25).astype(np.float32))
    result = run(data, predicted_vertebrae=str(data / "instances"), probabilities=str(data / "maps"))
    sections = result.summary.sections
    assert sections["vertebra instances"]["recall"].value == 6 / 8
    assert sections[ALL]["missed vertebrae"].events == 2
    assert sections[ALL]["brier"].n == 6
    assert rows_of(result)["a", "L1"]["probability"] == 0.75
    # The same masks without references' instances give no decision per vertebra.
    sections = score(str(data / "predictions"), str(data / "data" / "labels"), samples=20).summary.sections
    assert not [name for name in sections if name.startswith("decisions")]


def test_decisions_per_voxel_have_no_rows(data):
    other_tool(data)
    before = run(data).summary.sections
    (data / "predictions" / "cases").mkdir(exist_ok=True)
    for case in CASES:
        (data / "predictions" / "cases" / f"{case}.json").write_text(json.dumps({"case": case, "vertebrae": []}))
    assert repr(run(data).summary.sections) == repr(before)


def test_folders_of_totalsegmentator(data):
    other_tool(data)
    for case, labels in CASES.items():
        folder = data / "instances" / case / "segmentations"
        for v in labels:
            save(folder / f"vertebrae_{LEVELS[v]}.nii.gz", (spine(*labels) == v).astype(np.uint8))
        save(folder / "vertebrae_C1.nii.gz", np.zeros(SHAPE, np.uint8))
        save(folder / "liver.nii.gz", np.ones(SHAPE, np.uint8))
    assert (
        run(data, predicted_vertebrae=str(data / "instances")).summary.sections["vertebra instances"]["panoptic quality"].value == 1
    )
    for path in (data / "instances" / "a").rglob("vertebrae_[TL]*"):
        path.unlink()
    recall = run(data, predicted_vertebrae=str(data / "instances")).summary.sections["vertebra instances"]["recall"]
    assert (recall.events, recall.n) == (4, 8)


def test_partial_vertebrae_can_be_counted(data):
    path = data / "predictions" / "a_ct_vertebrae.nii.gz"
    extra = np.asarray(nib.load(path).dataobj).copy()
    extra[2:8, 2:8, 57:60] = 5
    save(path, extra)
    table = data / "predictions" / "vertebrae.csv"
    last = next(line for line in table.read_text().splitlines() if line.startswith("a_ct,4,"))
    table.write_text(table.read_text() + last.replace("a_ct,4,", "a_ct,5,") + "\n")
    assert run(data).summary.sections["vertebra instances"]["precision"].value == 1
    assert run(data, partial_vertebrae="count").summary.sections["vertebra instances"]["precision"].value == 8 / 9
    with pytest.raises(InputError, match="must be one of leave_out, count"):
        run(data, partial_vertebrae="drop")


def damaged(text: str, column: str, value: str) -> str:
    lines = text.splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index(column)] = value
    return "\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: damaged(t, "fracture_probability", "1.2"), "row 1 has fracture_probability 1.2"),
        (lambda t: damaged(t, "vertebra", "first"), "row 1 is damaged"),
        (lambda t: damaged(t, "vertebra", "2"), "lists vertebra 2 of a_ct twice"),
        (lambda t: t.replace("trabecular_hu,", "hu,"), "has no column trabecular_hu"),
    ],
)
def test_damaged_tables_are_one_line(data, change, message):
    table = data / "predictions" / "vertebrae.csv"
    table.write_text(change(table.read_text()))
    with pytest.raises(InputError, match=message) as raised:
        run(data)
    assert len(str(raised.value).splitlines()) == 1


def test_instances_that_do_not_fit_are_one_line(data, capsys):
    path = data / "predictions" / "a_ct_vertebrae.nii.gz"
    labels = np.asarray(nib.load(path).dataobj)
    for bad, message in (
        (renumbered(labels, {1: 1, 2: 9}), "both must come from one inference"),
        (labels[1:], "has shape"),
        (labels * 0.5, "contains fractions"),
    ):
        save(path, bad)
        with pytest.raises(InputError, match="1 of 2 cases were not scored"):
            score_command(str(data / "predictions"), str(data / "data"), samples=20)
        assert message in "".join(capsys.readouterr())


def test_tables_of_others_are_not_overwritten(data):
    for folder in ("predictions", "data"):
        with pytest.raises(InputError, match="would be overwritten"):
            score(str(data / "predictions"), str(data / "data"), str(data / folder), samples=20)
    refuse_foreign_table(data)
    write_table(data / "out" / "vertebrae.csv", [], DECISION_COLUMNS)
    refuse_foreign_table(data / "out")


def test_instances_without_those_of_the_reference(data):
    with pytest.raises(InputError, match="add --vertebrae FOLDER"):
        score(str(data / "predictions"), str(data / "data" / "labels"), predicted_vertebrae=str(data / "predictions"))
    with pytest.raises(InputError, match="no such folder"):
        run(data, predicted_vertebrae=str(data / "nothing"))


def test_calibration_of_a_json_must_be_two_numbers(data):
    path = data / "predictions" / "cases" / "a_ct.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": [0, 1]}))
    with pytest.raises(InputError, match="must be a slope above 0"):
        run(data)
