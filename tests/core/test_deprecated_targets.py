# SPDX-License-Identifier: Apache-2.0
"""Targets of configs of version 0.5, and of the recorded runs, resolve to components that take their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate

import pytest
import yaml
from conftest import ROOT
from scripts.core.deprecations import TARGETS, migrate_config

TARGETS_OF_VERSION_0_5 = Path(__file__).with_name("targets_of_version_0_5.txt").read_text().split()
RECORDS = sorted([*(ROOT / "docs" / "experiments").rglob("*.yaml"), Path(__file__).with_name("training_of_version_0_5.yaml")])
MONAI_KEYS = {"_target_", "_requires_", "_disabled_", "_desc_", "_mode_"}


def components(node: object) -> Iterator[dict]:
    """All parts of a config with a target of the bundle."""
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("scripts."):
            yield node
        for value in node.values():
            yield from components(value)
    elif isinstance(node, list):
        for value in node:
            yield from components(value)


@pytest.mark.parametrize("target", TARGETS_OF_VERSION_0_5)
def test_target_of_version_0_5_resolves(target):
    assert callable(locate(TARGETS.get(target, target)))


@pytest.mark.parametrize("file", RECORDS, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_arguments_of_recorded_configs_are_accepted(file):
    content = migrate_config(yaml.safe_load(file.read_text()) or {}, quiet=True)
    for component in components(content):
        parameters = inspect.signature(locate(component["_target_"])).parameters
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            assert set(component) - MONAI_KEYS <= set(parameters), component["_target_"]
