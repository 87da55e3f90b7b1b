# SPDX-License-Identifier: Apache-2.0
"""The user's table: separators, encodings, levels and labels, and one line for each row that cannot be used."""

from __future__ import annotations

import pytest
from scripts.core.errors import InputError
from scripts.core.vertebrae import LEVELS
from scripts.data.case_table import parse_level, read_case_table, write_case_table


def table(tmp_path, text: str, encoding: str = "utf-8"):
    path = tmp_path / "cases.csv"
    path.write_bytes(text.encode(encoding))
    return read_case_table(path)


def test_every_level_is_read_in_every_spelling():
    for label, level in LEVELS.items():
        assert parse_level(level) == parse_level(level.lower()) == parse_level(f"{label}") == parse_level(f"{label}.0") == label
    assert {parse_level(t) for t in ("Th12", "TH 12", "D12", "t12")} == {19}
    assert {parse_level(t) for t in ("L7", "C8", "T14", "S2", "0", "27", "99", "L", "x", "-1")} == {None}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_separators_and_encodings_of_spreadsheets(tmp_path, separator, encoding):
    text = "Case;Patient;Level;Grade;Shape;note\r\nMüller_ct.nii.gz;p1;Th12;2.0;Wedge;x\r\n;;;;;\r\n"
    text += "b;;19;x;;\r\nb;p2;L1;0;;\r\nc;p3;;0;;\r\n"
    found = table(tmp_path, text.replace(";", separator), encoding)
    assert set(found.cases) == {"Müller", "b", "c"}
    assert (found.cases["Müller"].grades[19].grade, found.cases["Müller"].grades[19].shape) == (2, "wedge")
    assert {v: g.grade for v, g in found.cases["b"].grades.items()} == {19: None, 20: 0}
    assert found.cases["b"].patient == "p2"
    assert found.cases["c"].intact
    assert found.lists_intact
    assert not found.problems


def test_each_unusable_row_is_one_line_and_its_case_left_out(tmp_path):
    rows = {
        "T12 has grade 3, and 2 in row 2": "a,p,T12,2,\na,p,T12,3,",
        "of another row of the case": "a,p,T12,2,\na,q,L1,1,",
        "level='L9'; must be C1": "a,p,L9,1,",
        "grade='4'; must be 0 to 3": "a,p,L1,4,",
        "shape='flat'; must be": "a,p,L1,1,flat",
        "without level or label": "a,p,,2,",
        "6 cells, and the header 5": "a,p,L1,1,wedge,7",
        "grade 0 without a level contradicts": "a,p,L1,1,\na,p,,0,",
    }
    for words, text in rows.items():
        found = table(tmp_path, f"case,patient,level,grade,shape\n{text}\nb,r,L1,1,\n")
        assert set(found.cases) == {"b"}, words
        (line,) = found.problems["a"]
        assert "row" in line
        assert words in line
    found = table(tmp_path, "case,level,label,grade\na,L1,19,1\n,L1,20,1\n")
    assert "contradict: L1 has label 20" in found.problems["a"][0]
    assert "no case" in found.problems[""][0]


def test_a_repeated_row_counts_once(tmp_path):
    found = table(tmp_path, "case,level,grade\na,L1,1\na_ct,20,1\n")
    assert len(found.cases["a"].grades) == 1
    assert found.notes == [f"{found.path}: row 3 repeats row 2 (L1); counted once"]
    assert not found.lists_intact


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("case,level,grade\n", "no row below its header"),
        ("kase,level,grade\na,L1,1\n", "kase: did you mean case"),
        ("case,level,grad\na,L1,1\n", "grad: did you mean grade"),
        ("case,grade\na,1\n", "no column level or label"),
        ("case\na\n", "only the column case"),
        ("case,level,grade,grade\na,L1,1,2\n", "has the column grade twice"),
        ("PK\x03\x04zip", "is a spreadsheet"),
        ('case,level,grade\n"a,L1,1\n', "is no CSV"),
    ],
)
def test_tables_of_other_content_are_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as caught:
        table(tmp_path, text)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such table"):
        read_case_table(tmp_path / "gone.csv")


def test_a_written_table_is_read_as_unknown_grades(tmp_path):
    write_case_table(tmp_path / "t.csv", {"a": [19, 28, 20], "b": [1]}, {"a": "p", "b": "q"})
    found = read_case_table(tmp_path / "t.csv")
    assert {v: g.grade for v, g in found.cases["a"].grades.items()} == {19: None, 28: None, 20: None}
    assert found.cases["b"].patient == "q"
    assert found.graded
    assert not table(tmp_path, "case;patient\na;p\n").graded
