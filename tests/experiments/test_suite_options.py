# SPDX-License-Identifier: Apache-2.0
"""The options that name a suite and its folder to another command."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from scripts.core.cli import parse_arguments
from scripts.core.errors import InputError
from scripts.experiments.suite.run import resolve_datalist, suite_options
from scripts.experiments.suite.table import table


def test_options_are_read_back_by_the_command_they_are_for():
    line = suite_options("my suite.yaml", Path("/a b/c"), dataset_dir="d e", setting=None, seeds=[0, 2])
    values, keywords = parse_arguments(table, shlex.split(line), "experiments table")
    given = dict(zip(("suite",), values, strict=False)) | keywords
    assert given == {"suite": "my suite.yaml", "out": "/a b/c", "dataset_dir": "d e", "seeds": [0, 2]}


def test_options_without_a_value_are_left_out():
    assert suite_options("ablation", Path("out"), setting=None) == "ablation --out out"


def test_a_suite_on_given_data_makes_no_phantoms_later(tmp_path):
    (tmp_path / "settings.json").write_text('{"data_sha256": "0"}')
    with pytest.raises(InputError, match="was begun with --dataset_dir"):
        resolve_datalist("small", {"cases": 1}, tmp_path, None)
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"]
