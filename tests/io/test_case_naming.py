# SPDX-License-Identifier: Apache-2.0
"""Names of the cases of an evaluation: each label has its own, in any order of repeats."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.io.case_naming import CaseNames

PARTS = st.sampled_from(["a", "b", "c"])


def test_a_second_label_of_one_name_has_its_folder():
    names = CaseNames()
    labels = ["set/p1.nii.gz", "other/p1.nii.gz", "set/p1.nii.gz", "more/other/p1.nii.gz", "set/p2.nii.gz"]
    assert [names.name(label) for label in labels] == ["p1", "other/p1", "p1", "more/other/p1", "p2"]


@given(st.lists(st.tuples(PARTS, PARTS, PARTS), max_size=20))
@settings(max_examples=100, deadline=None)
def test_names_are_unique_and_do_not_change(parts):
    names, labels = CaseNames(), [f"{x}/{y}/{z}.nii.gz" for x, y, z in parts]
    first = {label: names.name(label) for label in labels}
    assert len(set(first.values())) == len(first)
    assert {label: names.name(label) for label in labels} == first
