# SPDX-License-Identifier: Apache-2.0
"""Names of cases of one file name: of their folders, unique, and alike in tables, masks and outputs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.io.case_naming import CaseNames, distinct_names, names_in_outputs, without_endings

PARTS = st.sampled_from(["a", "b", "c"])


def test_cases_of_one_file_name_have_the_names_of_their_folders():
    assert distinct_names(["a/ct.nii.gz", "b/ct.nii.gz", "c/p3.nii.gz"]) == ["a", "b", "p3"]
    assert distinct_names(["a/images/ct.nii.gz", "b/images/ct.nii.gz"]) == ["a/images", "b/images"]
    assert distinct_names(["a/ct.nii.gz", "a/ct.nii.gz"]) == ["ct", "ct"]  # one file, listed twice
    assert distinct_names(["x/p1.nii.gz", "p1/ct.nii.gz", "p2/ct.nii.gz"]) == ["p1", "p1/ct", "p2"]
    assert distinct_names(["a/ct.nii.gz", "b/x.nii.gz"], generic=True) == ["a", "x"]
    assert names_in_outputs(["a/ct.nii.gz"]) == [["ct", "a"]]
    assert names_in_outputs(["a/p1_ct.nii.gz", "b/p1_ct.nii.gz"]) == [["a"], ["b"]]
    assert without_endings("p1/CT_seg") == "p1/CT"


def test_cases_are_named_by_their_labels():
    labels = ["./set/p1.nii.gz", "other/p1.nii.gz", "set/p2.nii.gz"]
    names = CaseNames([{"image": "x", "label": label} for label in labels] + [{"image": "y"}])
    assert [names.name(label) for label in ("set/p1.nii.gz", *labels)] == ["set", "set", "other", "p2"]
    assert names.name("of/another.nii.gz") == "another"


@given(st.lists(st.tuples(PARTS, PARTS, PARTS), max_size=20, unique=True))
@settings(max_examples=100, deadline=None)
def test_names_are_unique(parts):
    labels = [f"{x}/{y}/{z}.nii.gz" for x, y, z in parts]
    assert len(set(distinct_names(labels))) == len(labels)
