# SPDX-License-Identifier: Apache-2.0
"""Bad input of all data commands: misspelt options, missing, empty and wrong folders are one line that names them."""

from __future__ import annotations

import inspect

import pytest
from scripts.commands import DATA
from scripts.core.cli import load, run
from scripts.core.errors import InputError

WITH_SOURCE = [name for name in DATA if name not in ("phantom", "compare_builds")]


def arguments(name: str, source: object, out: object) -> list[str]:
    """Words of a command with its required arguments."""
    signature = inspect.signature(load(DATA[name][0])).parameters.values()
    positional = [p for p in signature if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "out"]
    words = [name, *(str(source) for _ in positional)]
    return [*words, "--out", str(out)] if name != "compare_builds" else words


@pytest.mark.parametrize("name", DATA)
def test_a_misspelt_option_is_one_line_before_any_work(name, tmp_path):
    with pytest.raises(InputError, match="there is no such option") as caught:
        run(DATA, "data", [*arguments(name, tmp_path, tmp_path / "out"), "--sede", "1"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WITH_SOURCE)
@pytest.mark.parametrize("kind", ["missing", "empty", "text"])
def test_a_source_without_data_is_one_line(name, kind, tmp_path):
    source = tmp_path / f"{kind}_source"
    if kind == "empty":
        source.mkdir()
    elif kind == "text":
        source.write_text("no data")
    with pytest.raises(InputError) as caught:
        run(DATA, "data", arguments(name, source, tmp_path / "out"))
    message = str(caught.value)
    assert source.name in message
    assert "\n" not in message
    assert ";" in message or "expected" in message  # the remedy
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_unreadable_case_lists_of_compare_builds_are_one_line(tmp_path):
    with pytest.raises(InputError) as caught:
        run(DATA, "data", ["compare_builds", str(tmp_path / "a"), str(tmp_path)])
    assert "\n" not in str(caught.value)
