# SPDX-License-Identifier: Apache-2.0
"""Every command with misspelt and missing values: one line with the remedy, a status that is not 0, no traceback."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
from fakes import affine_of, ball_scan, save, with_tissue
from scripts import commands
from scripts.core.cli import help_text, load
from scripts.core.provenance import version
from test_commands import LEAVES, _leaves

ROOMS = [None, *commands.ROOMS]
NOT_WALKED = ("bundle", "path", "completion")  # their arguments are others', or none
WALKED = [(words, target) for words, target, _ in _leaves(commands.COMMANDS) if words[0] not in NOT_WALKED]
GROUPS = [name for name, (target, _) in commands.COMMANDS.items() if not isinstance(target, str)]
SHAPE = (24, 28, 44)


@pytest.fixture
def refusal(monkeypatch, tmp_path, capsys):
    """Line by which a command line ends, whose status is not 0."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def command(*words: object, room: str | None = None) -> str:
        monkeypatch.setattr(sys, "argv", ["spine-fracture", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            commands.main(room)
        code = ended.value.code
        assert code not in (None, 0)
        line = code if isinstance(code, str) else capsys.readouterr().err.strip()
        assert "\n" not in line
        assert "Traceback" not in line
        assert not list((tmp_path / "here").rglob("*.nii.gz"))
        return line

    return command


def required(target: str) -> tuple[list[str], bool]:
    """Arguments without a default, and True where any number of values is taken."""
    parameters = inspect.signature(load(target)).parameters.values()
    rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL], rest


@pytest.mark.parametrize(("words", "target"), WALKED, ids=lambda v: "-".join(v) if isinstance(v, tuple) else "")
class TestEveryCommand:
    """Every command of the table."""

    def test_missing_value(self, refusal, words, target):
        names, _ = required(target)
        line = refusal(*words)
        assert all(f"--{name}" in line for name in names)

    def test_misspelt_option(self, refusal, words, target):
        names = list(inspect.signature(load(target)).parameters)
        option = max(names, key=len)
        line = refusal(*words, f"--{option[:-1]}x", "1")
        assert "there is no such option" in line
        assert option in line or "known:" in line

    def test_path_that_does_not_exist(self, refusal, words, target, tmp_path):
        names, rest = required(target)
        (tmp_path / "taken").write_text("a file, no folder")
        paths = {n: tmp_path / "taken" / "below" if n == "out" else tmp_path / "nowhere" for n in names}
        values = [text for name, path in paths.items() for text in (f"--{name}", path)]
        assert refusal(*words, *([tmp_path / "nowhere"] * 2 if rest else []), *values)

    def test_help_runs_nothing(self, words, target, monkeypatch, capsys):
        for flags in (["-h"], ["--help"], ["somewhere", "-h"]):
            monkeypatch.setattr(sys, "argv", ["spine-fracture", *words, *flags])
            commands.main()
            assert capsys.readouterr().out.startswith(f"Usage: spine-fracture {' '.join(words)}")


@pytest.mark.parametrize(("words", "target", "line"), LEAVES, ids=lambda v: "-".join(v) if isinstance(v, tuple) else "")
def test_help_is_sentences(words, target, line):
    text = help_text(load(target), " ".join(words))
    head, _, arguments = text.partition("\nArguments:\n")
    paragraphs = " ".join(arguments.split()) if arguments else "."
    assert head.strip().split("\n")[-1].rstrip().endswith((".", ":", "]"))
    assert paragraphs.endswith(".")
    assert "(a string)" not in text


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_of_every_entry_point(room, flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["spine-fracture", flag])
    commands.main(room)
    assert capsys.readouterr().out.endswith(f" {version()}\n")


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_of_every_entry_point(room, flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["spine-fracture", flag])
    commands.main(room)
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize("group", GROUPS)
def test_command_of_a_group_is_missing_or_misspelt(refusal, group):
    first = next(iter(commands.COMMANDS[group][0]))
    assert first in refusal(group)
    assert f"did you mean {first}" in refusal(group, f"{first}x")


def test_misspelt_group(refusal):
    assert "did you mean segment" in refusal("segmnt", "scan.nii.gz")
    assert "bash or zsh" in refusal("completion", "fish")
    assert "unexpected" in refusal("path", "there")


@pytest.fixture
def scan(tmp_path) -> Path:
    affine = affine_of(SHAPE, (2.0, 2.0, 2.0))
    save(tmp_path / "scan.nii.gz", with_tissue(ball_scan(SHAPE, affine, [(0, 0, 0)], 13.0) - 150), affine)
    return tmp_path / "scan.nii.gz"


CONFIGS = {
    "torn.yaml": (b"a: [1\nb: 2", "cannot be read as a config"),
    "list.yaml": (b"- 1", "must be a mapping"),
    "bytes.yaml": (bytes(range(128, 200)), "cannot be read as a config"),
    "misspelt.yaml": (b"treshold: 0.4", "did you mean 'threshold'"),
    "words.yaml": (b"overlap: many", "must be a number"),
    "reference.yaml": (b"threshold: '@nothing'", "nothing"),
    "expression.yaml": (b"threshold: '$1/0'", "division by zero"),
    "torn.json": (b"{", "cannot be read as a config"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_damaged_config(refusal, scan, tmp_path, name):
    content, words = CONFIGS[name]
    (tmp_path / name).write_bytes(content)
    assert words in refusal("segment", scan, "--out", "out", "--config", tmp_path / name)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("config", "none.yaml", "no such config"),
        ("checkpoint", "none.pt", "no such checkpoint"),
        ("device", "cudda", "cpu, cuda"),
        ("device", "cuda:99", "GPU"),
        ("vertebrae", "nowhere", "no such mask"),
        ("section", "tesing", "testing"),
        ("threshold", "many", "a number"),
        ("threshold", "2", "threshold"),
        ("min_volume_ml", "-1", "min_volume_ml"),
        ("search", "spin", "spine"),
        ("coarse_mm", "-2", "coarse_mm"),
        ("sw_batch_size", "0", "sw_batch_size"),
        ("sw_batch_size", "1.5", "a whole number"),
        ("max_memory", "lots", "max_memory"),
        ("overwrite", "maybe", "True or False"),
    ],
)
def test_wrong_value_of_an_option(refusal, scan, option, value, words):
    assert words in refusal("segment", scan, "--out", "out", f"--{option}", value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.json", b"{", "not valid JSON"), ("b.json", b"{}", "testing"), ("c.txt", b"x", "contains no scan")],
)
def test_input_that_is_no_scan(refusal, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert words in refusal("segment", tmp_path / name, "--out", "out")
