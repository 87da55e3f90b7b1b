# SPDX-License-Identifier: Apache-2.0
"""Patients of case names: regular expressions, globs with a group, and the guess that is shown."""

from __future__ import annotations

import pytest
from scripts.core.errors import InputError
from scripts.data.patients import describe_guess, guess_patients, patient_pattern, patients_by_pattern


@pytest.mark.parametrize(
    ("pattern", "name", "patient"),
    [
        ("^[^_]+", "p1_s1", "p1"),
        ("sub-([a-z0-9]+)", "sub-verse007_x", "verse007"),
        ("phantom-[0-9]+", "phantom-0007_a", "phantom-0007"),
        ("(p*)_*", "p1_s1_x", "p1"),
        ("(p?)_s*", "p1_s22", "p1"),
        ("*-(*)_*", "ward-7_a", "7"),
        ("(p?)_s*", "p11_s1", None),
        ("^x", "p1", None),
        ("(y?)", "p1", None),
    ],
)
def test_patterns_are_expressions_or_globs(pattern, name, patient):
    assert patient_pattern(pattern)(name) == patient


def test_patterns_that_name_no_patient_are_refused():
    for pattern, words in (
        ("(", "not a valid regular expression"),
        ("p*_*", "names no patient"),
        ("(p*)_(s*)", "names no patient"),
    ):
        with pytest.raises(InputError, match=words):
            patient_pattern(pattern)
    with pytest.raises(InputError, match="does not match the case name q1"):
        patients_by_pattern(["p1", "q1"], "^p.")


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["p1_s1", "p1_s2", "p2_s1"], ["p1", "p1", "p2"]),
        (["case_001", "case_002"], ["case_001", "case_002"]),
        (["sub-verse410_split-verse267", "sub-verse410_split-verse268"], ["sub-verse410"] * 2),
        (["smith_a", "smith_b", "jones_a"], ["smith", "smith", "jones"]),
        (["scan_a", "scan_b"], ["scan_a", "scan_b"]),
        (["LIDC-IDRI-0001_1", "LIDC-IDRI-0002_1"], ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]),
        (["1.2.840.3", "1.2.840.4"], ["1.2.840.3", "1.2.840.4"]),
    ],
)
def test_guesses_keep_slices_of_a_patient_together(names, patients):
    assert list(guess_patients(names).values()) == patients


def test_a_guess_is_shown_with_its_cases_and_remedy():
    lines = describe_guess(guess_patients([f"p{k}_s{s}" for k in range(30) for s in range(12)]))
    assert lines[0].startswith("warning: 30 patient(s) of 360 case(s) are guessed")
    assert "--patient" in lines[0]
    assert lines[1].startswith("  p0: p0_s0, p0_s1,")
    assert lines[1].endswith("and 4 more")
    assert lines[-1] == "  and 10 more patients"
    assert "one section alone" in describe_guess(guess_patients(["p1_a", "p1_b"]))[0]
    assert "patient of its own" in describe_guess(guess_patients(["a1", "a2"]))[0]
