# SPDX-License-Identifier: Apache-2.0
"""Searches by several workers at once, and trials of workers that were killed or stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from forked import Forked  # noqa: E402
from scripts.experiments.search import search  # noqa: E402
from scripts.experiments.search_report import effective_trials  # noqa: E402
from scripts.experiments.suite import stages  # noqa: E402
from search_helpers import load_study, start_worker, wait_until, write_space  # noqa: E402
from search_worker import command  # noqa: E402


@pytest.fixture
def start() -> Iterator[Callable[..., Forked]]:
    """Start workers; those of a failed test are killed."""
    started: list[Forked] = []

    def begin(folder: Path, name: str, **arguments) -> Forked:
        started.append(start_worker(folder, name, **arguments))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.wait()


def test_two_workers_share_a_study(start, phantom_set, tmp_path):
    space, out = write_space(tmp_path), tmp_path / "out"
    arguments = {"space": space, "out": str(out), "dataset_dir": str(phantom_set), "trials": 5}
    workers = [start(tmp_path, f"worker{n}", **arguments) for n in range(2)]
    codes = [w.wait(400) for w in workers]
    assert codes == [0, 0], "".join((tmp_path / f"worker{n}.txt").read_text() for n in range(2))
    trials = load_study(space, out).get_trials()
    assert {t.state.name for t in trials} == {"COMPLETE"}
    assert 5 <= len(trials) <= 6, "a worker may begin one trial more while the other begins the last"
    assert len({t.params["learning_rate"] for t in trials}) == len(trials)
    logs = [p.read_text() for p in (out / "trials").glob("*/log.txt")]
    assert len(logs) == len(trials)
    assert all(text.count("starts after epoch 0") == 1 for text in logs)


def test_two_trials_at_once_share_a_journal(phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "bundle_command", command)
    space, storage = write_space(tmp_path), str(tmp_path / "study.log")
    search(space, str(tmp_path / "out"), str(phantom_set), trials=4, storage=storage, gpus=[0, 3])
    trials = load_study(space, tmp_path / "out", storage).get_trials()
    assert {t.state.name for t in trials} == {"COMPLETE"}
    assert 4 <= len(trials) <= 5
    records = [json.loads(p.read_text()) for p in (tmp_path / "out" / "trials").glob("*/record.json")]
    assert {r["machine"]["devices"] for r in records} == {"0", "3"}


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_the_trial_of_a_killed_worker_is_resumed(start, phantom_set, tmp_path, kind):
    space, out = write_space(tmp_path, fixed={"epochs": 12, "patience": 99}), tmp_path / "out"
    storage = None if kind == "sqlite" else f"journal://{tmp_path / 'study.log'}"
    arguments = {"space": space, "out": str(out), "dataset_dir": str(phantom_set), "trials": 2, "storage": storage}
    killed = start(tmp_path, "killed", **arguments)
    state = out / "trials" / "0000" / "state.pt"
    wait_until(lambda: state.is_file() and state.read_text() == "3")
    other = start(tmp_path, "other", **arguments)
    wait_until((out / "trials" / "0001" / "state.pt").is_file)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(10)
    (out / "go").touch()
    assert other.wait(400) == 0, (tmp_path / "other.txt").read_text()
    study = load_study(space, out, storage)
    trials = study.get_trials()
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[0].params
    assert [t.number for t in effective_trials(study)] == [1, 2]
    log = (out / "trials" / "0000" / "log.txt").read_text()
    assert log.count("starts after epoch") == 2
    assert log.count("starts after epoch 0") == 1  # the second attempt resumed
    rows = list(csv.DictReader((out / "trials" / "0000" / "history.csv").open()))
    assert [int(r["epoch"]) for r in rows] == list(range(1, 13))  # and no other process wrote to it
    assert sorted(trials[2].intermediate_values) == list(range(1, 13))


def test_a_stopped_worker_queues_its_trial_again(start, phantom_set, tmp_path, monkeypatch):
    space, out = write_space(tmp_path, fixed={"epochs": 12, "patience": 99}), tmp_path / "out"
    worker = start(tmp_path, "worker", space=space, out=str(out), dataset_dir=str(phantom_set), trials=1)
    state = out / "trials" / "0000" / "state.pt"
    wait_until(lambda: state.is_file() and state.read_text() == "3")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(300) == 1
    assert "rerun the same command to resume" in (tmp_path / "worker.txt").read_text()
    assert [t.state.name for t in load_study(space, out).get_trials()] == ["FAIL", "WAITING"]
    (out / "go").touch()
    monkeypatch.setattr(stages, "bundle_command", command)
    search(space, str(out), str(phantom_set), trials=1)
    assert [t.state.name for t in load_study(space, out).get_trials()] == ["FAIL", "COMPLETE"]
