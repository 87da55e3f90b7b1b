# SPDX-License-Identifier: Apache-2.0
"""Locks of folders: one holder, void when its process has ended, renewed while it is held."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from scripts.core import folder_lock
from scripts.core.folder_lock import FolderLock


def compete(folder: str, log: str, number: int) -> None:
    for item in range(20):
        with FolderLock(Path(folder) / str(item)) as lock:
            done = Path(folder) / str(item) / "done"
            if lock.acquired and not done.exists():
                time.sleep(0.001)
                with open(log, "a") as file:
                    file.write(f"{item} {number}\n")
                done.touch()


def test_a_lock_has_one_holder_and_is_released(tmp_path):
    with FolderLock(tmp_path) as first:
        assert first.acquired
        with FolderLock(tmp_path) as second:
            assert not second.acquired
            assert second.holder() == f"{socket.gethostname()}, process {os.getpid()}"
        assert (tmp_path / "lock.json").exists(), "a refused process must not release the lock of another"
    assert FolderLock(tmp_path).holder() is None
    assert not FolderLock(tmp_path).is_stale()
    assert list(tmp_path.iterdir()) == []


def test_competing_processes_process_every_item_once(tmp_path):
    context, log = multiprocessing.get_context("spawn"), tmp_path / "log.txt"
    workers = [context.Process(target=compete, args=(str(tmp_path / "items"), str(log), n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    items = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert sorted(items) == list(range(20))


def test_the_lock_of_an_ended_process_is_void(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "lock.json").write_text(json.dumps({"host": socket.gethostname(), "pid": process.pid}))
    assert FolderLock(tmp_path).is_stale()
    with FolderLock(tmp_path) as lock:
        assert lock.acquired


@pytest.mark.parametrize("content", ['{"host": "another", "pid": 1}', ""])
def test_the_lock_of_another_machine_is_void_when_stale(tmp_path, content):
    path = tmp_path / "lock.json"
    path.write_text(content)
    with FolderLock(tmp_path) as lock:
        assert not lock.acquired
        assert lock.holder() in ("another, process 1", "another machine, process ?")
    old = time.time() - folder_lock.STALE_S - 5
    os.utime(path, (old, old))
    with FolderLock(tmp_path) as lock:
        assert lock.acquired


def test_a_lock_is_renewed_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.05)
    with FolderLock(tmp_path) as lock:
        old = time.time() - 1000
        os.utime(lock.path, (old, old))
        limit = time.monotonic() + 10
        while lock.path.stat().st_mtime < old + 500:
            assert time.monotonic() < limit
            time.sleep(0.02)


def test_waiting_for_a_lock_ends_with_its_release(tmp_path, capsys):
    with FolderLock(tmp_path) as first:
        threading.Timer(0.3, first.__exit__).start()
        with FolderLock(tmp_path, wait=lambda: True) as second:
            assert second.acquired
    assert "waiting for" in capsys.readouterr().out
    with FolderLock(tmp_path), FolderLock(tmp_path, wait=lambda: False) as third:
        assert not third.acquired


def test_the_lock_of_a_former_process_of_equal_number_is_void(tmp_path):
    """As in a container that is started again."""
    (tmp_path / "lock.json").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": "former"}))
    with FolderLock(tmp_path) as lock:
        assert lock.acquired


def test_locks_of_two_names_do_not_exclude_each_other(tmp_path):
    with FolderLock(tmp_path) as first, FolderLock(tmp_path, name="training.json") as second:
        assert first.acquired
        assert second.acquired


def test_a_process_of_this_machine_is_here(tmp_path):
    with FolderLock(tmp_path):
        assert FolderLock(tmp_path).is_here()
    assert not FolderLock(tmp_path).is_here()
    (tmp_path / "lock.json").write_text(json.dumps({"host": "another", "pid": os.getpid(), "id": "1"}))
    assert not FolderLock(tmp_path).is_here()


@pytest.mark.parametrize("content", ["[]", json.dumps({"host": socket.gethostname()}), '{"host": "a", "pid": "x"}', "\x00"])
def test_a_damaged_lock_is_that_of_another_machine(tmp_path, content):
    path = tmp_path / "lock.json"
    path.write_text(content)
    assert FolderLock(tmp_path).holder() == "another machine, process ?"
    os.utime(path, (0, 0))
    with FolderLock(tmp_path) as lock:
        assert lock.acquired


def test_a_lock_that_another_process_took_over_is_not_released(tmp_path):
    with FolderLock(tmp_path) as first:
        os.utime(first.path, (0, 0))  # as after a pause of the machine
        with FolderLock(tmp_path) as second:
            assert second.acquired
            first.__exit__()
            assert second.path.is_file()
        assert not second.path.exists()


@pytest.mark.parametrize("taken_again", [False, True])
def test_a_lock_that_is_just_released_is_not_stale(tmp_path, monkeypatch, taken_again):
    class Slow(FolderLock):
        def holder(self) -> str | None:
            held.__exit__()  # between reading the file and its age
            if taken_again:
                self.path.write_text(json.dumps({"host": "another", "pid": 1, "id": "new"}))
            return None

    held = FolderLock(tmp_path).__enter__()
    assert not Slow(tmp_path).is_stale()


def test_a_lock_that_another_process_took_over_is_not_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.02)
    with FolderLock(tmp_path) as lock:
        lock.path.write_text(json.dumps({"host": "another", "pid": 1, "id": "of the other"}))
        os.utime(lock.path, (0, 0))
        time.sleep(0.2)
        assert lock.path.stat().st_mtime == 0


def test_a_storage_that_is_away_does_not_end_the_renewal(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.02)
    calls, utime = [], os.utime

    def failing(path) -> None:
        calls.append(path)
        if len(calls) < 3:
            raise OSError("stale file handle")
        utime(path)

    monkeypatch.setattr(folder_lock.os, "utime", failing)
    with FolderLock(tmp_path) as lock:
        utime(lock.path, (0, 0))
        limit = time.monotonic() + 10
        while lock.path.stat().st_mtime < 1000:
            assert time.monotonic() < limit
            time.sleep(0.02)
