# SPDX-License-Identifier: Apache-2.0
"""Lines that name the next command are ones that can be typed where they appear."""

from __future__ import annotations

import shlex
import sys

import pytest
from scripts.core import program
from scripts.core.program import command, quoted


@pytest.mark.parametrize("word", ["runs/own/model.pt", "a b/c d.pt", "mine.yaml", "x,y", "p(1)"])
def test_shell_reads_one_word(word):
    assert shlex.split(f"cmd {quoted(word)} --x") == ["cmd", word, "--x"]


def test_installed_program_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(program.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert command("data split X") == "spine-fracture data split X"
    monkeypatch.setattr(program.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert command("data split X") == "python -m scripts data split X"  # in the bundle's folder
    (tmp_path / "spine-fracture").touch()
    assert command("data split X") == f"{tmp_path / 'spine-fracture'} data split X"
