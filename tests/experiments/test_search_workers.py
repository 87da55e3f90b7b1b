# SPDX-License-Identifier: Apache-2.0
"""Searches by several workers at once, and what happens when one is killed or asked to stop."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripts.experiments.search_space import load_space
from scripts.experiments.search_storage import Timing, open_storage
from scripts.experiments.search_study import begin_study, counted
from searches import QUICK, WORKER, quick, study_of, write_space

optuna = pytest.importorskip("optuna")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start workers; those that a failed test leaves behind are ended."""
    started: list[subprocess.Popen] = []

    def begin(folder: Path, name: str, **given) -> subprocess.Popen:
        started.append(start_worker(folder, name, **given))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.wait()


def start_worker(folder: Path, name: str, **given) -> subprocess.Popen:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(given))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.txt").open("w") as log:
        return subprocess.Popen([sys.executable, str(WORKER), str(file)], stdout=log, stderr=log, env=environment)


def until(what: Callable[[], object], seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.05)


def storage_of(kind: str, folder: Path) -> str | None:
    return None if kind == "sqlite" else f"journal://{folder / 'study.log'}"


def test_two_workers_share_a_study_and_end_with_the_wanted_number(start, phantom_set, tmp_path):
    space = write_space(tmp_path)
    given = {"space": space, "out": str(tmp_path / "out"), "data": str(phantom_set), "trials": 6}
    workers = [start(tmp_path, f"worker{n}", **given) for n in range(2)]
    codes = [w.wait(400) for w in workers]
    assert codes == [0, 0], "".join((tmp_path / f"worker{n}.txt").read_text() for n in range(2))
    trials = counted(study_of(space, tmp_path / "out").get_trials())
    assert [t.state.name for t in trials] == ["COMPLETE"] * 6
    assert len({t.params["learning_rate"] for t in trials}) == 6
    records = [json.loads(p.read_text()) for p in (tmp_path / "out" / "trials").glob("*/record.json")]
    assert len(records) == 6
    logs = [p.read_text() for p in (tmp_path / "out" / "trials").glob("*/log.txt")]
    assert all(text.count("begins after epoch 0") == 1 for text in logs)


def test_two_workers_of_one_process_share_a_journal(phantom_set, tmp_path):
    space = write_space(tmp_path)
    storage = str(tmp_path / "study.log")
    quick(space, tmp_path / "out", phantom_set, trials=4, storage=storage, slots=[{}, {}])
    trials = counted(study_of(space, tmp_path / "out", storage).get_trials())
    assert [t.state.name for t in trials] == ["COMPLETE"] * 4


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_the_trial_of_a_killed_worker_is_taken_up_where_it_was(start, phantom_set, tmp_path, kind):
    space = write_space(tmp_path, fixed={"epochs": 12, "patience": 99})
    storage, out = storage_of(kind, tmp_path), tmp_path / "out"
    given = {"space": space, "out": str(out), "data": str(phantom_set), "trials": 2, "storage": storage}
    killed = start(tmp_path, "killed", **given)
    state = out / "trials" / "0000" / "state.pt"
    until(lambda: state.is_file() and state.read_text() and int(state.read_text()) == 3)
    other = start(tmp_path, "other", **given)
    until(lambda: (out / "trials" / "0001" / "state.pt").is_file())
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(10)
    (out / "go").touch()
    assert other.wait(400) == 0, (tmp_path / "other.txt").read_text()
    every = study_of(space, out, storage).get_trials()
    assert [t.state.name for t in every] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert every[2].params == every[0].params
    assert every[2].system_attrs["retry_history"] == [0]
    assert len(counted(every)) == 2
    log = (out / "trials" / "0000" / "log.txt").read_text()
    assert log.count("begins after epoch") == 2
    assert log.count("begins after epoch 0") == 1  # the second attempt went on
    rows = list(csv.DictReader((out / "trials" / "0000" / "history.csv").open()))
    assert [int(r["epoch"]) for r in rows] == list(range(1, 13))  # and nobody wrote beside it
    assert sorted(every[2].intermediate_values) == list(range(1, 13))
    assert "1 attempts were cut off" in (out / "report.md").read_text()


def test_a_database_misses_the_signs_of_life_without_a_shared_folder(phantom_set, tmp_path):
    space, out = load_space(write_space(tmp_path, retries=1)), tmp_path / "out"
    storage = f"sqlite:///{tmp_path / 'far.db'}"
    from scripts.experiments.search_study import Recovery, retry

    opened = open_storage(storage, out, lambda s, t: retry(s, t, space.retries), Timing(beat=1, dead=2))
    study = begin_study(opened, space, out, "far", "data")
    far = type(opened)(opened.storage, opened.shown, shared=False)
    recover = Recovery(far, study, out, 1, QUICK)
    for attempt in range(2):
        trial = study.ask()
        opened.storage.record_heartbeat(trial._trial_id)
        recover()
        assert len(study.trials) == attempt + 1
        until(lambda: recover() or study.trials[-1].number == attempt + 1 or attempt == 1, 10)  # noqa: B023
    until(lambda: recover() or study.trials[1].state.name == "FAIL", 10)
    assert [t.state.name for t in study.trials] == ["FAIL", "FAIL"]  # one attempt more, and no other


def test_a_worker_that_is_asked_to_stop_queues_its_trial(start, phantom_set, tmp_path):
    space, out = write_space(tmp_path, fixed={"epochs": 12, "patience": 99}), tmp_path / "out"
    worker = start(tmp_path, "worker", space=space, out=str(out), data=str(phantom_set), trials=1)
    state = out / "trials" / "0000" / "state.pt"
    until(lambda: state.is_file() and state.read_text() == "3")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(300) == 1
    assert "the same command goes on" in (tmp_path / "worker.txt").read_text()
    assert [t.state.name for t in study_of(space, out).get_trials()] == ["FAIL", "WAITING"]
    (out / "go").touch()
    quick(space, out, phantom_set, trials=1)
    assert [t.state.name for t in study_of(space, out).get_trials()] == ["FAIL", "COMPLETE"]
