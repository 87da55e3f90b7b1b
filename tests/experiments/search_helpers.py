# SPDX-License-Identifier: Apache-2.0
"""Small searches with a fake training, for the tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import search_worker
import yaml
from forked import Forked, start
from scripts.experiments.search import open_storage
from scripts.experiments.search_space import load_space, require_optuna

RATE = {"kind": "float", "low": 0.001, "high": 0.1, "log": True}


def write_space(folder: Path, name: str = "tiny", **content) -> str:
    content = {"parameters": {"learning_rate": RATE}, "trials": 3, "fixed": {"epochs": 3}} | content
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def load_study(space: str, out: Path, storage: str | None = None):
    return require_optuna().load_study(study_name=load_space(space).name, storage=open_storage(storage, out))


def start_worker(folder: Path, name: str, **arguments) -> Forked:
    """Start a worker whose output is in NAME.txt."""
    return start(folder / f"{name}.txt", search_worker.work, arguments)


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)
