# SPDX-License-Identifier: Apache-2.0
"""Command lines: options are compared with the signature before a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripts.core.cli import run
from scripts.core.errors import InputError


@pytest.fixture
def call(monkeypatch):
    """Run a command line; returns what the command was called with."""
    calls: list[dict] = []

    def make(
        source: str,
        out: str | None = None,
        cases: int = 3,
        share: float = 0.5,
        regions: Sequence[str] | str = ("a",),
        grades: Sequence[int] | int = (1,),
        only: bool = False,
    ) -> None:
        """Make something."""
        calls.append(dict(locals()))

    def several(*runs: str, out: str = "x") -> None:
        """Take several."""
        calls.append({"runs": runs, "out": out})

    def occupy(out: str) -> None:
        """Write below something that is a file."""
        Path(out, "below").mkdir(parents=True)

    def command(*arguments: str) -> dict | None:
        calls.clear()
        monkeypatch.setattr(sys, "argv", ["prog", *arguments])
        run({"make": make, "several": several, "occupy": occupy}, name="scripts.prog")
        return calls[0] if calls else None

    command.calls = calls
    return command


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["folder"], {"source": "folder", "cases": 3, "only": False}),
        (["2024", "--out", "007"], {"source": "2024", "out": "007"}),
        (["a", "--out", "None"], {"out": None}),
        (["a", "--cases=4", "--share", "1"], {"cases": 4, "share": 1}),
        (["a", "--grades", "2"], {"grades": 2}),
        (["a", "--grades", "[2,3]"], {"grades": [2, 3]}),
        (["a", "--regions", "lumbar"], {"regions": "lumbar"}),
        (["a", "--regions", "['lumbar','7']"], {"regions": ["lumbar", "7"]}),
        (["a", "--only"], {"only": True}),
        (["a", "--noonly"], {"only": False}),
        (["--only", "--source", "a"], {"only": True, "source": "a"}),
        (["a", "-c", "5"], {"cases": 5}),
    ],
)
def test_values_arrive_with_the_type_of_their_annotation(call, arguments, expected):
    got = call("make", *arguments)
    assert {k: got[k] for k in expected} == expected


def test_any_number_of_values_stay_texts(call):
    assert call("several", "1", "02", "--out", "3") == {"runs": ("1", "02"), "out": "3"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mkae", "a"], "did you mean make"),
        (["make", "a", "--case", "4"], "did you mean --cases"),
        (["make", "a", "--zzz"], "known: --source"),
        (["make", "a", "--cases", "many"], "--cases many: must be a whole number"),
        (["make", "a", "--cases", "2.5"], "whole number"),
        (["make", "a", "--share", "True"], "a number"),
        (["make", "a", "--only", "7"], "True or False"),
        (["make", "a", "--grades", "high"], "list of whole numbers"),
        (["make", "a", "--grades", "['1']"], "--grades ['1']: must be"),
        (["make", "a", "--out"], "--out: needs a value"),
        (["make", "a", "--out", "--only"], "--out: needs a value"),
        (["make"], "--source is missing"),
        (["make", "a", "b", "3", "0.1", "c", "1", "True", "more"], "more: one value too many"),
        (["make", "a", "-z", "1"], "-z: there is no such option"),
    ],
)
def test_a_wrong_line_is_refused_before_anything_runs(call, arguments, words):
    with pytest.raises(InputError) as refused:
        call(*arguments)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert call.calls == []


def test_help_is_shown_and_nothing_runs(call, capsys):
    with pytest.raises(SystemExit) as ended:
        call("make", "--help")
    assert ended.value.code == 0
    assert call.calls == []
    output = capsys.readouterr()
    assert "--cases" in output.out + output.err


def test_a_place_that_cannot_be_written_is_one_line(call, tmp_path):
    (tmp_path / "file").write_text("taken")
    with pytest.raises(InputError) as refused:
        call("occupy", "--out", str(tmp_path / "file"))
    assert str(tmp_path / "file") in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "file").read_text() == "taken"
