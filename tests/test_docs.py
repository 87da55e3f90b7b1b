# SPDX-License-Identifier: Apache-2.0
"""Code in the manual prints what the manual says, and its command lines can be typed."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex

import pytest
from conftest import ROOT
from scripts.core.cli import check_arguments


def test_the_worked_example_of_the_evaluation_is_true():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    code, expected = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", text, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/evaluation.md", "exec"), {})
    assert printed.getvalue() == expected


COMMAND = re.compile(
    r"(?:python|nproc_per_node=\d) -m scripts\.(data|evaluation|inference|label) ([A-Za-z0-9]+ [^`\n]+)"
)


def commands() -> list[tuple[str, str, str]]:
    """Every command line of our own modules that the documents show, with its file."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [(file.name, *found) for file in files for found in COMMAND.findall(file.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("file", "module", "line"), commands())
def test_the_command_lines_of_the_documents_are_right(file, module, line):
    command, *arguments = shlex.split(line, comments=True)
    known = importlib.import_module(f"scripts.{module}.__main__").COMMANDS
    if module == "inference" and command not in known:
        command, arguments = "segment", [command, *arguments]
    check_arguments(known[command], arguments, f"{file}: {command}")


def test_command_lines_are_found():
    assert len(commands()) > 12
