# SPDX-License-Identifier: Apache-2.0
"""Names of cases of one file name: of their folders, unique, and alike in tables, masks and outputs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.io.case_naming import CaseNames, distinct_names, names_in_outputs, without_endings

PARTS = st.sampled_from(["a", "b", "c"])


def test_cases_of_one_file_name_have_the_names_of_their_folders():
    assert distinct_names(["a/ct.nii.gz", "b/ct.nii.gz", "c/p3.nii.gz"]) == ["a", "b", "p3"]
    assert distinct_names(["/a/images/ct.nii.gz", "/b/images/ct.nii.gz"]) == ["a_images", "b_images"]
    assert distinct_names(["/d/case_0001/seg.nii.gz", "/d/case_0002/seg.nii.gz"]) == ["case_0001", "case_0002"]
    assert distinct_names(["a/ct.nii.gz", "a/ct.nii.gz"]) == ["ct", "ct"]  # one file, listed twice
    assert distinct_names(["x/p1.nii.gz", "p1/ct.nii.gz", "p2/ct.nii.gz"]) == ["p1", "p1_2", "p2"]
    assert distinct_names(["a/ct.nii.gz", "b/x.nii.gz"], generic=True) == ["a", "x"]
    assert names_in_outputs(["a/ct.nii.gz"]) == [["ct", "a"]]
    assert names_in_outputs(["a/p1_ct.nii.gz", "b/p1_ct.nii.gz"]) == [["a"], ["b"]]
    assert without_endings("p1_CT_seg") == "p1"


def test_cases_are_named_by_their_labels():
    labels = ["./set/p1.nii.gz", "other/p1.nii.gz", "set/p2.nii.gz"]
    names = CaseNames([{"image": "./x", "label": label} for label in labels] + [{"image": "y"}])
    assert [names.name("x", label) for label in ("set/p1.nii.gz", *labels)] == ["set", "set", "other", "p2"]
    assert names.name(None, "of/another.nii.gz") == "another"


def test_numbers_of_repeated_names_are_of_no_other_case():
    files = ["x/p1.nii.gz", "p1/ct.nii.gz", "p2/ct.nii.gz", "x/p1_2.nii.gz"]
    assert distinct_names(files) == ["p1", "p1_3", "p2", "p1_2"]


def test_images_that_share_a_label_are_two_cases():
    cases = [{"image": f"{kernel}/p1_{kernel}.nii.gz", "label": "labels/p1.nii.gz"} for kernel in ("soft", "bone")]
    cases.append({"image": "soft/p2.nii.gz", "label": "labels/p2.nii.gz"})
    names = CaseNames(cases)
    assert [names.name(c["image"], c["label"]) for c in cases] == ["p1_p1_soft", "p1_p1_bone", "p2"]


@given(st.lists(st.tuples(PARTS, PARTS, PARTS), max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_names_are_unique_and_stay_in_their_folder(parts):
    labels = [f"/{x}/{y}/{z}.nii.gz" for x, y, z in parts]
    names = distinct_names(labels)
    assert len(set(names)) == len(labels)
    assert not any("/" in name for name in names)  # joined to a folder of outputs, none is a path of its own
    cases = CaseNames([{"image": f"/i/{z}.nii.gz", "label": label} for label, (_, _, z) in zip(labels, parts, strict=True)])
    assert len({cases.name(*files) for files in cases.files}) == len(labels)
