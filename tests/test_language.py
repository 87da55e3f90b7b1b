# SPDX-License-Identifier: Apache-2.0
"""Names and prose are the field's: software is no person, docstrings are noun phrases or imperatives, test names are short."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *sorted((ROOT / "bundle" / "scripts").rglob("*.py")),
    *sorted((ROOT / "bundle" / "configs").rglob("*.yaml")),
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "Makefile",
]
# Words of persons, and words of earlier versions that a reader of the field would not use.
DIALECT = re.compile(
    r"\b("
    r"asks?|asked|asking|tells?|told|telling|says?|saying|said|knows?|knew|nobody|opinions?|judges?|judged"
    r"|agree(?! to| within| with)|agrees(?! to| within| with)|agreeing"
    r"|anew|mends?|mended|mending|goes on|go on with|going on|gives? way|taken up again|takes? up again"
    r"|first look|second look|looks? at|looks? around|looked at|by itself|costs only|lucky|leaves? each|left to itself"
    r"|wants?|wanted|gives? (?:0|1|one|two|three|a|an|some|the|every|of)"
    r")\b",
    re.IGNORECASE,
)
QUESTION = {"what", "which", "whether", "how", "where", "who", "why"}


def _id(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


# Files that must hold old names.
EXEMPT = {
    "test_language.py",
    "deprecations.py",
    "test_deprecated_targets.py",
    "test_deprecations.py",
    "test_renamed_weights.py",
    "spine_gan_discriminator.py",
}


@pytest.mark.parametrize("file", [f for f in SOURCES if f.name not in EXEMPT], ids=_id)
def test_prose_has_no_persons(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    wrong = [f"{_id(file)}:{n}: {m[0]!r} in {line.strip()}" for n, line in enumerate(lines, 1) for m in [DIALECT.search(line)] if m]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", [f for f in SOURCES if f.suffix == ".py" and "bundle" in f.parts], ids=_id)
def test_docstrings_are_noun_phrases_or_imperatives(file):
    wrong = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            words = (ast.get_docstring(node) or "x").split()
            if words[0].lower().strip(".,:") in QUESTION:
                wrong.append(f"{_id(file)}:{getattr(node, 'lineno', 1)}: {' '.join(words[:9])}")
    assert not wrong, "\n".join(wrong)


def test_test_names_are_at_most_60_characters():
    long = [
        f"{_id(file)}: {name}"
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
        if len(name) > 60
    ]
    assert not long, "\n".join(long)


def test_no_source_file_is_over_400_lines():
    long = [_id(f) for f in SOURCES if len(f.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long


def test_strings_with_placeholders_are_formatted():
    wrong = []
    for file in sorted((ROOT / "bundle" / "scripts").rglob("*.py")):
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))  # with the plain parts of formatted strings
        texts = [n for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and not n.value.startswith("#!")]
        wrong += [f"{_id(file)}:{n.lineno}: {n.value[:60]!r}" for n in texts if re.search(r"\{[a-z_]+[(.\[][^{}]*\}", n.value)]
    assert not wrong, "\n".join(wrong)
