# SPDX-License-Identifier: Apache-2.0
"""Small searches with a pretended training, for the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from scripts.experiments.search import run_search
from scripts.experiments.search_space import load_space
from scripts.experiments.search_storage import Timing, open_storage
from scripts.experiments.search_study import begin_study

WORKER = Path(__file__).with_name("search_worker.py")
RATE = {"kind": "float", "low": 0.001, "high": 0.1, "log": True}
QUICK = Timing(beat=1, dead=3, unclaimed=3.0, poll=0.1, watch=0.02)


def write_space(folder: Path, name: str = "tiny", **content) -> str:
    content = {"parameters": {"learning_rate": RATE}, "trials": 3, "fixed": {"epochs": 3}} | content
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def fake(run_id: str, config: Path, options: dict) -> list[str]:
    return [sys.executable, str(WORKER), "--train", str(config), str(options["ckpt_dir"])]


def quick(space: str, out: Path, data: Path, **arguments) -> list[str]:
    return run_search(load_space(space), out, str(data), command=fake, timing=QUICK, **arguments)


def study_of(space: str, out: Path, storage: str | None = None) -> object:
    loaded = load_space(space)
    return begin_study(open_storage(storage, out), loaded, out, loaded.name, None)
