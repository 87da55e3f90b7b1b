# SPDX-License-Identifier: Apache-2.0
"""Command lines: options are compared with the signature before a command runs."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripts.core import cli, deprecations
from scripts.core.cli import run
from scripts.core.errors import InputError
from scripts.core.library_messages import LOGGERS


def make(
    source: str,
    out: str | None = None,
    cases: int = 3,
    share: float = 0.5,
    regions: Sequence[str] | str = ("a",),
    grades: Sequence[int] | int = (1,),
    only: bool = False,
) -> None:
    """Make something.

    Args:
        source: folder of the source.
        cases: number of cases, over
            two lines.
    """
    CALLS.append(dict(locals()))


def several(*runs: str, out: str = "x") -> None:
    """Compare several runs."""
    CALLS.append({"runs": runs, "out": out})


def occupy(out: str) -> None:
    """Write below something that is a file."""
    Path(out, "below").mkdir(parents=True)


CALLS: list[dict] = []
FUNCTIONS = {"make": make, "several": several, "occupy": occupy}
TABLE = {name: (name, f"line of {name}") for name in FUNCTIONS}


@pytest.fixture
def call(monkeypatch):
    """Run a command line; returns the values that the command received."""
    monkeypatch.setattr(cli, "load", FUNCTIONS.__getitem__)

    def command(*arguments: str) -> dict | None:
        CALLS.clear()
        run({**TABLE, "group": (TABLE, "a group")}, "prog", arguments)
        return CALLS[0] if CALLS else None

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
        (["a", "--regions", "[/w/a.pt,../b.pt,~/c.pt,d]"], {"regions": ["/w/a.pt", "../b.pt", "~/c.pt", "d"]}),
        (["a", "--only"], {"only": True}),
        (["a", "--noonly"], {"only": False}),
        (["--only", "--source", "a"], {"only": True, "source": "a"}),
        (["a", "-c", "5"], {"cases": 5}),
    ],
)
def test_values_have_the_annotated_type(call, arguments, expected):
    got = call("make", *arguments)
    assert {k: got[k] for k in expected} == expected


def test_variadic_values_stay_texts(call):
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
        (["make", "a", "--regions", "b", "--regions", "c"], 'given twice; several values are one list: --regions "[A,B]"'),
        (["make", "a", "--cases", "4", "--cases=5"], "given twice"),
        (["make", "a", "--no-only=True"], "--no-only: takes no value; it is the same as --only False"),
        (["make", "a", "--noonly", "True"], "--noonly: takes no value"),
        (["make", "a", "--out"], "--out: needs a value"),
        (["make", "a", "--out", "--only"], "--out: needs a value"),
        (["make"], "--source is missing; see prog make --help"),
        (["make", "a", "b", "3", "0.1", "c", "1", "True", "more"], "more: unexpected positional argument"),
        (["make", "a", "-z", "1"], "-z: there is no such option"),
    ],
)
def test_wrong_lines_are_refused_before_anything_runs(call, arguments, words):
    with pytest.raises(InputError) as refused:
        call(*arguments)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert CALLS == []


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_arguments_and_runs_nothing(call, capsys, flag):
    call("make", flag)
    assert CALLS == []
    text = capsys.readouterr().out
    assert text.startswith("Usage: prog make SOURCE [options]")
    assert "--cases INTEGER\n      Number of cases, over two lines. Default: 3.\n" in text
    assert "--only\n" in text


@pytest.mark.parametrize("arguments", [[], ["-h"], ["group", "--help"]])
def test_help_of_a_group_lists_its_commands(call, capsys, arguments):
    call(*arguments)
    assert "occupy   line of occupy" in capsys.readouterr().out


def test_commands_of_a_group_run(call):
    assert call("group", "make", "a")["source"] == "a"
    with pytest.raises(InputError, match="mak: prog group has no such command; did you mean make"):
        call("group", "mak")


@pytest.mark.parametrize(("group", "whole", "calls"), [((), (), 1), ((), ("make",), 0), (("group",), ("make",), 0)])
def test_targets_that_need_the_whole_of_monai_have_it(monkeypatch, group, whole, calls):
    seen = []
    monkeypatch.setattr(cli, "load", FUNCTIONS.__getitem__)
    monkeypatch.setattr(cli, "import_monai_lean", lambda: seen.append("lean"))
    run({**TABLE, "group": (TABLE, "a group")}, "prog", [*group, "make", "a"], whole)
    assert len(seen) == calls


def test_commands_leave_out_messages_without_a_remedy(call):
    logger = logging.getLogger(LOGGERS[0])
    logger.setLevel(logging.NOTSET)
    call("several", "a")
    assert not logger.isEnabledFor(logging.WARNING)


def test_old_option_works_with_a_warning(call, monkeypatch, caplog):
    monkeypatch.setitem(deprecations.OPTIONS, "number", "cases")
    assert call("make", "a", "--number", "5")["cases"] == 5
    assert "`--number` is called `--cases`" in caplog.text


def test_unwritable_folder_is_one_line(call, tmp_path):
    (tmp_path / "file").write_text("taken")
    with pytest.raises(InputError) as refused:
        call("occupy", "--out", str(tmp_path / "file"))
    assert str(tmp_path / "file") in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "file").read_text() == "taken"


def test_a_reader_that_has_ended_is_no_error():
    program = f"import sys; sys.path.insert(0, {str(Path(cli.__file__).parents[2])!r}); from scripts.core.cli import print_text; "
    program += "print_text('line' * 200_000)"
    command = f'{sys.executable} -c "{program}" | head -c 4'
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=120)
    assert done.stdout == "line"
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["make", "--help"], ["group", "make", "-h"]])
def test_help_and_version_go_to_a_reader_that_may_end(call, monkeypatch, capsys, words):
    printed: list[str] = []
    monkeypatch.setattr(cli, "print_text", printed.append)
    call(*words)
    assert len(printed) == 1
    assert printed[0]
    assert capsys.readouterr().out == ""
