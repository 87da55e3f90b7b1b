# SPDX-License-Identifier: Apache-2.0
"""Pairs of masks: values that are not named, files of other contents, folders of TotalSegmentator, patients."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.core.vertebrae import LEVELS
from scripts.data.vertebra_table import write_vertebra_table
from scripts.evaluation.inference_output import OF_INFERENCE
from scripts.evaluation.pairs import find_cases, instances_by_name, masks_by_name, read_mask, read_pair


def save(path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)


@pytest.fixture
def vertebrae() -> np.ndarray:
    labels = np.zeros((6, 6, 12), np.uint8)
    for k, label in enumerate((21, 20, 19)):
        labels[1:5, 1:5, 4 * k : 4 * k + 3] = label
    return labels


def test_values_that_are_not_named_are_background(tmp_path, vertebrae):
    vertebrae[0, 0, 0] = 255
    save(tmp_path / "a.nii.gz", vertebrae)
    mask = np.asarray(read_mask(tmp_path / "a.nii.gz", [19, 20], (255,)).dataobj)
    np.testing.assert_array_equal(mask == 1, np.isin(vertebrae, [19, 20]))
    assert (mask == 255).sum() == 1
    assert not np.asarray(read_mask(tmp_path / "a.nii.gz", [7], ()).dataobj).any()
    for option in ("--fractured", "--predicted"):
        with pytest.raises(ValueError, match=rf"values \[19, 20, 21\]; .* {option} \"\[19,20\]\"") as caught:
            read_mask(tmp_path / "a.nii.gz", None, (255,), option)
        assert "\n" not in str(caught.value)


def test_vertebra_masks_of_any_tool_are_references(tmp_path, vertebrae):
    for name in ("p1_a", "p1_b"):
        save(tmp_path / "pred" / f"{name}_fracture.nii.gz", (vertebrae == 19).astype(np.uint8))
        save(tmp_path / "verse" / f"{name}_seg-vert_msk.nii.gz", vertebrae)
        for v in (19, 20, 21):
            save(tmp_path / "total" / name / "segmentations" / f"vertebrae_{LEVELS[v]}.nii.gz", (vertebrae == v).astype(np.uint8))
    for references in ("verse", "total"):
        cases, problems = find_cases(
            str(tmp_path / "pred"), str(tmp_path / references), vertebrae=str(tmp_path / references), patient="(*)_*"
        )
        assert not problems
        assert [(c.case, c.patient) for c in cases] == [("p1_a", "p1"), ("p1_b", "p1")]
        assert all(c.vertebrae is not None for c in cases)
        reference, prediction = read_pair(cases[0], [19, 20])
        np.testing.assert_array_equal(np.asarray(reference.dataobj), np.isin(vertebrae, [19, 20]))
        np.testing.assert_array_equal(prediction, vertebrae == 19)


def test_files_of_other_contents_are_no_predictions(tmp_path, vertebrae):
    for ending in ("fracture", "vertebrae", "probability"):
        save(tmp_path / f"a_{ending}.nii.gz", vertebrae)
    assert {k: v.name for k, v in masks_by_name(tmp_path)[0].items()} == {"a": "a_fracture.nii.gz"}
    assert {k: v.name for k, v in masks_by_name(tmp_path, "probability")[0].items()} == {"a": "a_probability.nii.gz"}
    assert {k: v.name for k, v in instances_by_name(tmp_path)[0].items()} == {"a": "a_vertebrae.nii.gz"}


def test_a_case_without_its_map_or_instances_is_left_out(tmp_path, vertebrae):
    for name in ("p1", "p2", "p3"):
        save(tmp_path / "pred" / f"{name}_fracture.nii.gz", (vertebrae == 19).astype(np.uint8))
        save(tmp_path / "ref" / f"{name}.nii.gz", (vertebrae == 19).astype(np.uint8))
    for folder, ending, names in (("maps", "probability", ("p1", "p2")), ("vertebrae", "vertebrae", ("p2", "p3"))):
        for name in names:
            save(tmp_path / folder / f"{name}_{ending}.nii.gz", vertebrae)
    save(tmp_path / "maps" / "p3_probability.nii.gz", vertebrae)
    save(tmp_path / "maps" / "p3_prob.nii", vertebrae)  # two of one name are none
    folders = {"probabilities": str(tmp_path / "maps"), "vertebrae": str(tmp_path / "vertebrae")}
    cases, problems = find_cases(str(tmp_path / "pred"), str(tmp_path / "ref"), **folders)
    assert [c.case for c in cases] == ["p2"]
    assert any("p1.nii.gz: has no vertebra mask" in line for line in problems)
    assert any("p3.nii.gz: has no probability map" in line for line in problems)
    assert len(find_cases(str(tmp_path / "pred"), str(tmp_path / "ref"))[0]) == 3


def test_grades_of_a_merged_set_are_found(tmp_path, vertebrae):
    entries, rows = [], []
    for part, level in (("own1", "T12"), ("own2", "L1")):
        save(tmp_path / part / "labels" / "p1.nii.gz", (vertebrae == 19).astype(np.uint8))
        save(tmp_path / "pred" / f"{part}_fracture.nii.gz", (vertebrae == 19).astype(np.uint8))
        entries.append({"image": f"images/{part}_ct.nii.gz", "label": f"{part}/labels/p1.nii.gz"})
        rows.append({"case": f"{part}/p1", "label": 19, "level": level, "fractured": 1, "grade": 2})
    (tmp_path / "datalist.json").write_text(json.dumps({"testing": entries}))
    write_vertebra_table(tmp_path / "vertebrae.csv", rows)
    cases, problems = find_cases(str(tmp_path / "pred"), str(tmp_path / "datalist.json"))
    assert problems == []
    assert len({c.case for c in cases}) == 2
    assert [c.rows[19]["level"] for c in cases] == ["T12", "L1"]


@pytest.mark.parametrize("named", ["p1", "p1_ct", "p1_seg.nii.gz", "p1_0000", "verse/p1_ct"])
def test_rows_of_a_table_are_found_by_names_without_endings(tmp_path, vertebrae, named):
    save(tmp_path / "pred" / "p1_fracture.nii.gz", (vertebrae == 19).astype(np.uint8))
    save(tmp_path / "ref" / "p1_seg.nii.gz", (vertebrae == 19).astype(np.uint8))
    table = tmp_path / "grades.csv"
    write_vertebra_table(table, [{"case": named, "label": 19, "level": "T12", "fractured": 1, "grade": 2}])
    (case,), problems = find_cases(str(tmp_path / "pred"), str(tmp_path / "ref"), table=str(table))
    assert not problems
    assert case.rows[19]["grade"] == "2"


def test_a_table_of_other_cases_or_of_inference_is_refused(tmp_path, vertebrae):
    save(tmp_path / "pred" / "p1_fracture.nii.gz", (vertebrae == 19).astype(np.uint8))
    save(tmp_path / "ref" / "p1_seg.nii.gz", (vertebrae == 19).astype(np.uint8))
    folders, table = (str(tmp_path / "pred"), str(tmp_path / "ref")), tmp_path / "vertebrae.csv"
    write_vertebra_table(table, [{"case": "other", "label": 19, "level": "T12", "fractured": 1, "grade": 2}])
    with pytest.raises(InputError, match=r"vertebrae\.csv: names other, and none of the cases \(p1, ...\)"):
        find_cases(*folders, table=str(table))
    table.write_text(",".join(sorted(OF_INFERENCE)) + "\n")
    with pytest.raises(InputError, match="has the decisions of inference, which cannot be their own reference"):
        find_cases(*folders, table=str(table))


def test_a_scan_without_predicted_instances_is_left_out(tmp_path, vertebrae):
    for name in ("p1", "p2"):
        save(tmp_path / "pred" / f"{name}_fracture.nii.gz", (vertebrae == 19).astype(np.uint8))
        save(tmp_path / "ref" / f"{name}_seg.nii.gz", (vertebrae == 19).astype(np.uint8))
        save(tmp_path / "vert" / f"{name}_seg-vert_msk.nii.gz", vertebrae)
    save(tmp_path / "instances" / "p1_vertebrae.nii.gz", vertebrae)
    folders, instances = (str(tmp_path / "pred"), str(tmp_path / "ref")), str(tmp_path / "instances")
    assert len(find_cases(*folders, predicted_vertebrae=instances)[0]) == 2  # no vertebra is known, so none is missed
    (case,), problems = find_cases(*folders, vertebrae=str(tmp_path / "vert"), predicted_vertebrae=instances)
    assert case.instances == tmp_path / "instances" / "p1_vertebrae.nii.gz"
    assert len(problems) == 1
    assert "p2_seg.nii.gz: has no instances in" in problems[0]


def test_a_pattern_that_does_not_match_is_refused(tmp_path, vertebrae):
    for folder in ("pred", "ref"):
        save(tmp_path / folder / "p1.nii.gz", (vertebrae == 19).astype(np.uint8))
    with pytest.raises(InputError, match="does not match the case name p1"):
        find_cases(str(tmp_path / "pred"), str(tmp_path / "ref"), patient="(p*)_*")


def test_maps_and_instances_are_found_by_any_name_of_a_case(tmp_path, vertebrae):
    save(tmp_path / "s1" / "fx_017.nii.gz", (vertebrae == 19).astype(np.uint8))
    for folder, name in (("pred", "p1_fracture"), ("maps", "p1_probability"), ("vertebrae", "p1_vertebrae")):
        save(tmp_path / folder / f"{name}.nii.gz", vertebrae)
    entry = {"image": "s1/p1.nii.gz", "label": "s1/fx_017.nii.gz"}
    (tmp_path / "datalist.json").write_text(json.dumps({"testing": [entry]}))
    folders = {"probabilities": str(tmp_path / "maps"), "vertebrae": str(tmp_path / "vertebrae")}
    (case,), problems = find_cases(str(tmp_path / "pred"), str(tmp_path / "datalist.json"), **folders)
    assert problems == []
    assert (case.case, case.probability.name, case.vertebrae.name) == ("fx_017", "p1_probability.nii.gz", "p1_vertebrae.nii.gz")
