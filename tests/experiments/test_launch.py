# SPDX-License-Identifier: Apache-2.0
"""Processes and folder locks: one holder at a time, stale locks are void, no process outlives its parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from scripts.core.errors import InputError
from scripts.experiments import launch as launch_module
from scripts.experiments.launch import FolderLock, bundle_command, launch, run_all, tail, worker_environments


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
    old = time.time() - launch_module.STALE_S - 5
    os.utime(path, (old, old))
    with FolderLock(tmp_path) as lock:
        assert lock.acquired


def test_a_lock_is_renewed_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_module, "HEARTBEAT_S", 0.05)
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


def test_a_process_is_stopped_with_its_children(tmp_path):
    child = "[sys.executable, '-c', 'import time; time.sleep(61)']"
    program = f"import subprocess, sys, time; subprocess.Popen({child}); time.sleep(60)"
    calls = []
    log = tmp_path / "log.txt"
    outcome = launch([sys.executable, "-c", program], log, poll=lambda: calls.append(1) or len(calls) < 3, interval=0.2)
    assert outcome.stopped
    assert outcome.code != 0
    assert outcome.seconds < 50
    good = launch([sys.executable, "-c", "print('done')"], log, interval=0.1)
    assert (good.code, good.stopped) == (0, False)
    assert good.peak_mib > 1
    assert tail(log)[-1] == "done"
    assert "time.sleep(61)" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.replace(program, "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is of Linux")
def test_a_process_dies_with_its_killed_parent(tmp_path, bundle):
    inner = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "import sys; from pathlib import Path; from scripts.experiments.launch import launch; "
        f"launch([sys.executable, '-c', {inner!r}], Path({str(tmp_path / 'log.txt')!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", outer], cwd=bundle)
    limit = time.monotonic() + 60
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_bundle_command_runs_in_the_folder_of_the_bundle(tmp_path, bundle):
    command = bundle_command("training", tmp_path / "config.yaml", {"device": "cpu", "resume": True})
    assert command[3:7] == ["-m", "monai.bundle", "run", "training"]
    assert command[-4:] == ["--device", "cpu", "--resume", "True"]
    program = "import os, scripts; print(os.getcwd(), scripts.__file__)"
    launch([sys.executable, "-c", program], tmp_path / "log.txt", interval=0.05)
    assert tail(tmp_path / "log.txt")[-1] == f"{bundle} {bundle / 'scripts' / '__init__.py'}"


def test_progress_bars_are_left_out_of_a_tail(tmp_path):
    text = "a\n 5%|x| 1/2 [00:01<00:01, 1.0it/s]\r 9%|x| [1.0s/it]\nTraceback\n\nValueError: b\n"
    (tmp_path / "log.txt").write_text(text)
    assert tail(tmp_path / "log.txt") == ["a", "Traceback", "ValueError: b"]
    assert tail(tmp_path / "none.txt") == []


def test_workers_get_a_gpu_or_a_share_of_the_cores():
    assert worker_environments(1, None) == [{}]
    assert worker_environments(1, [0, 3]) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3"}]
    threads = str(max(os.cpu_count() // 2, 1))
    assert worker_environments(2, None) == [{"OMP_NUM_THREADS": threads}] * 2
    with pytest.raises(InputError, match="jobs=0: must be at least 1"):
        worker_environments(0, None)


def test_all_jobs_are_done_once_each_with_its_own_variables():
    done, active = [], set()

    def work(job, variables, stop):
        assert variables["n"] not in active
        active.add(variables["n"])
        time.sleep(0.02)
        active.remove(variables["n"])
        done.append(job)

    assert run_all(range(6), work, [{"n": "0"}, {"n": "1"}])
    assert sorted(done) == list(range(6))


def test_a_signal_or_an_error_ends_the_remaining_jobs():
    done = []

    def work(job, variables, stop):
        done.append(job)
        if job == "fail":
            raise ValueError(job)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)

    assert not run_all(["a", "b"], work, [{}])
    assert done == ["a"]
    with pytest.raises(ValueError, match="fail"):
        run_all(["fail", "b"], work, [{}])
    assert done == ["a", "fail"]
