# SPDX-License-Identifier: Apache-2.0
"""Small searches with a fake training, for the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from scripts.experiments.search import open_storage
from scripts.experiments.search_space import load_space, require_optuna

WORKER = Path(__file__).with_name("search_worker.py")
RATE = {"kind": "float", "low": 0.001, "high": 0.1, "log": True}


def write_space(folder: Path, name: str = "tiny", **content) -> str:
    content = {"parameters": {"learning_rate": RATE}, "trials": 3, "fixed": {"epochs": 3}} | content
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def load_study(space: str, out: Path, storage: str | None = None):
    return require_optuna().load_study(study_name=load_space(space).name, storage=open_storage(storage, out))


def start_worker(folder: Path, name: str, **arguments) -> subprocess.Popen:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(arguments))
    with (folder / f"{name}.txt").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, str(WORKER), str(file)], stdout=log, stderr=log, env=environment)


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)
