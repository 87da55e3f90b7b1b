# SPDX-License-Identifier: Apache-2.0
"""Pairs of masks: values that are not named, files of other contents, folders of TotalSegmentator, patients."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.core.vertebrae import LEVELS
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
