# SPDX-License-Identifier: Apache-2.0
"""The table of commands: every function exists and has help; the entry points print version, path and completion."""

import inspect
import itertools
import subprocess
import sys

import pytest
from conftest import BUNDLE
from scripts import commands
from scripts.core.cli import help_text, load
from scripts.core.declaration import declaration
from scripts.core.paths import SCRIPTS
from scripts.core.provenance import version


def _leaves(table, words=()):
    for name, (target, line) in table.items():
        if isinstance(target, str):
            yield (*words, name), target, line
        else:
            yield from _leaves(target, (*words, name))


LEAVES = [*_leaves(commands.COMMANDS), *(leaf for room, table in commands.ROOMS.items() for leaf in _leaves(table, (room,)))]


@pytest.mark.parametrize(("words", "target", "line"), LEAVES, ids=lambda v: "-".join(v) if isinstance(v, tuple) else "")
def test_every_command_exists_and_explains_its_options(words, target, line):
    text = help_text(load(target), " ".join(words))
    assert line
    rows = text.partition("\nArguments:\n")[2].splitlines()
    unexplained = [name for name, row in itertools.pairwise(rows) if name[2] != " " and row.startswith("      (")]
    assert not unexplained


@pytest.mark.parametrize("target", sorted({target for _, target, _ in LEAVES}))
def test_help_from_the_source_is_that_of_the_function(target):
    declared = declaration(target, SCRIPTS)
    assert declared is not None, f"{target} is imported for its help, which takes seconds"
    assert help_text(declared, "command") == help_text(load(target), "command")
    assert inspect.signature(declared).parameters == inspect.signature(load(target)).parameters


def test_help_and_misspelt_options_import_no_library():
    program = """
import sys
from scripts.commands import main
for words in (["segment", "--help"], ["data", "phantom", "--outt", "x"], ["completion"], ["evaluate", "score"]):
    sys.argv = ["spine-fracture", *words]
    try:
        main()
    except SystemExit as ended:
        print(ended)
print("heavy:", sorted({"torch", "monai", "numpy", "nibabel", "yaml"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=BUNDLE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Usage: spine-fracture segment PATH --out DIR" in done.stdout
    assert "--outt: there is no such option" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


@pytest.fixture
def type_line(monkeypatch):
    def command(*words: str, room: str | None = None) -> None:
        monkeypatch.setattr(sys, "argv", ["spine-fracture", *words])
        commands.main(room)

    return command


def test_version_and_path(type_line, capsys):
    type_line("--version")
    type_line("path")
    assert capsys.readouterr().out == f"spine-fracture {version()}\n{BUNDLE}\n"


def test_exports_and_trainings_have_the_whole_of_monai():
    whole = {"inference.export:export", "experiments.suite.run:run", "experiments.search:search", "label.serve:serve"}
    assert whole <= commands.WHOLE_MONAI
    assert not {"evaluation.score:score_command", "training.describe_weights:show"} & commands.WHOLE_MONAI


def test_inference_without_a_command_segments(type_line, monkeypatch):
    calls = []
    monkeypatch.setattr(commands, "run", lambda table, name, words, whole: calls.append((name, words)))
    type_line("scan.nii.gz", "--out", "x", room="inference")
    type_line("export", "model.pt", room="inference")
    assert [words[0] for _, words in calls] == ["segment", "export"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_offers_commands_and_options(type_line, capsys, shell):
    type_line("completion", shell)
    script = capsys.readouterr().out
    if shell == "zsh":
        assert script.startswith("autoload")
        return
    for typed, expected in {"spine-fracture evaluate s": "score", "spine-fracture segment scan.nii --thr": "--threshold"}.items():
        words = typed.split()
        lines = f"{script}\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _spine_fracture; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [expected]


def test_bundle_command_finds_configs(type_line, monkeypatch, tmp_path):
    calls = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("epochs: 3\n")
    monkeypatch.setattr(commands.os, "execve", lambda program, words, environment: calls.append((words, environment)))
    type_line("bundle", "run", "training", "--config_file", "['configs/train.yaml','mine.yaml']", "--epochs", "3")
    words, environment = calls[0]
    assert words[1:5] == ["-m", "monai.bundle", "run", "training"]
    assert f"['{BUNDLE}/configs/train.yaml','mine.yaml']" in words
    assert words[-2:] == ["--epochs", "3"]
    assert environment["PYTHONPATH"].split(":")[0] == str(BUNDLE)
