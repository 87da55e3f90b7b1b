# SPDX-License-Identifier: Apache-2.0
"""Code in the manual prints what the manual shows, its command lines can be typed, its links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT
from scripts.commands import COMMANDS, INFERENCE, ROOMS
from scripts.core.cli import load, parse_arguments

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]
MANUAL = [p for p in PAGES if "history" not in p.parts and "model_card" not in p.parts]
MODULE = re.compile(r"(?:python|nproc_per_node=\d|HOST:29500) -m scripts\.(data|evaluation|inference|label|experiments) ([^`\n]+)")
PROGRAM = re.compile(r"spine-fracture ((?:segment|evaluate|data|experiments|label|export) [^`\n|]+)")
BUNDLE_RUN = re.compile(r"(?:spine-fracture bundle|-m monai\.bundle) run (\w+)[^`]*?--config_file (\"\[.*?\]\"|\S+)")
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]+)?\)")


def _lines() -> list[tuple[str, list[str], dict]]:
    """Command lines of the bundle in the manual: file, words, table that they are looked up in."""
    lines = []
    for page in MANUAL:
        text = page.read_text(encoding="utf-8")
        for room, words in MODULE.findall(text):
            table = ROOMS[room]
            words = shlex.split(words, comments=True)
            lines.append((page.name, ["segment", *words] if room == "inference" and words[0] not in INFERENCE else words, table))
        lines += [(page.name, shlex.split(words, comments=True), COMMANDS) for words in PROGRAM.findall(text)]
    return lines


def test_worked_example_of_the_evaluation_is_true():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code, expected = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", text, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/evaluation.md", "exec"), {})
    assert printed.getvalue() == expected


@pytest.mark.parametrize(("file", "words", "table"), _lines(), ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else "")
def test_command_lines_of_the_manual_are_valid(file, words, table):
    if {"...", "…"} & set(words) or "COMMAND" in words or words[-1] in ("-h", "--help"):
        pytest.skip("a pattern of a command line")
    target, rest = table[words[0]][0], words[1:]
    while not isinstance(target, str):
        target, rest = target[rest[0]][0], rest[1:]
    parse_arguments(load(target), rest, f"{file}: {' '.join(words)}")


def test_command_lines_are_found():
    assert len(_lines()) > 25


@pytest.mark.parametrize("page", MANUAL, ids=lambda p: p.name)
def test_configs_of_the_manual_exist(page):
    for _, configs in BUNDLE_RUN.findall(page.read_text(encoding="utf-8")):
        for name in re.findall(r"configs/[\w./-]+\.yaml", configs):
            assert (BUNDLE / name).is_file(), f"{page.name}: {name}"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor[1:] in _anchors(target), f"{page.name}: {path}{anchor}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100
