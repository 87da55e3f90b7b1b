# SPDX-License-Identifier: Apache-2.0
"""Processes and folder locks: one holder at a time, stale locks are void, no process outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts.core.errors import InputError
from scripts.experiments.launch import bundle_command, launch, run_all, tail, worker_environments


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
