# SPDX-License-Identifier: Apache-2.0
"""Two trainings do not write to one folder: the second is refused before it reads data, a killed one does not exclude others."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
from ignite.engine import Events
from scripts.core import process_id
from scripts.core.errors import InputError
from scripts.core.folder_lock import FolderLock
from scripts.core.process_id import process_exists
from scripts.training import run_lock
from scripts.training.run_lock import LOCK, exclusive, refuse_running
from test_resume import workflow

ELSEWHERE = json.dumps({"host": "another", "pid": 1, "id": "1"})
REFUSED = r"another training writes to it \(.*, process \d+\); wait for its end, or choose another --run_name"


def test_a_second_training_is_refused_before_it_reads(bundle, phantom_set, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.training.preflight.preflight", lambda **_: pytest.fail("data were read"))
    with FolderLock(tmp_path, name=LOCK), pytest.raises(InputError, match=REFUSED):
        workflow(bundle, phantom_set, tmp_path).run()
    assert [p.name for p in tmp_path.iterdir()] == []


def test_a_training_holds_and_releases_its_lock(bundle, phantom_set, tmp_path):
    work = workflow(bundle, phantom_set, tmp_path, epochs=1)
    held = []
    trainer = work.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: held.append(FolderLock(tmp_path, name=LOCK).is_here()))
    work.run()
    assert held == [True]
    assert (tmp_path / "model.pt").is_file()
    assert not (tmp_path / LOCK).exists()


def test_weights_and_state_are_locked_apart(tmp_path):
    weights, state = tmp_path / "weights", tmp_path / "state"
    with exclusive(weights, state, None):
        for folder in (weights, state):
            with pytest.raises(InputError, match=REFUSED), exclusive(tmp_path / "other", folder):
                pass
    with exclusive(state):
        assert not (weights / LOCK).exists()


def test_the_lock_of_a_killed_training_elsewhere_is_awaited(tmp_path, monkeypatch, capsys):
    (tmp_path / LOCK).write_text(ELSEWHERE)
    refuse_running(tmp_path)
    monkeypatch.setattr(run_lock.time, "sleep", lambda _: os.utime(tmp_path / LOCK, (0, 0)))
    with exclusive(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert "waiting for another, process 1" in capsys.readouterr().out


def test_a_training_elsewhere_is_awaited_for_two_minutes(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text(ELSEWHERE)
    monkeypatch.setattr(run_lock, "STALE_S", -100.0)
    with pytest.raises(InputError, match=r"another training writes to it \(another, process 1\)"), exclusive(tmp_path):
        pass
    assert (tmp_path / LOCK).is_file()


def test_on_windows_no_signal_is_sent(monkeypatch):
    monkeypatch.setattr(process_id, "os", SimpleNamespace(name="nt", kill=lambda *_: pytest.fail("a signal")))
    assert process_exists(1)
