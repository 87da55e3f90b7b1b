# SPDX-License-Identifier: Apache-2.0
"""Signals end a training between two steps, and its workers ignore them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import BUNDLE, LEAN
from monai.data import DataLoader, Dataset
from scripts.training.shutdown import GracefulShutdown, IgnoreSignals, exit_status


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signal_is_recorded():
    request = GracefulShutdown()
    request.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    assert request.name == "SIGTERM"
    assert exit_status("SIGTERM") == 143


def test_second_signal_ends_the_process_at_once():
    code = (
        # a background job of a shell starts with SIGINT ignored
        "import os, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from scripts.training.shutdown import GracefulShutdown; r = GracefulShutdown(); r.listen()\n"
        "os.kill(os.getpid(), signal.SIGINT); print(r.name, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(5); print('on')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True)
    assert done.stdout == "SIGINT\n"
    assert done.returncode == -signal.SIGINT


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        request = GracefulShutdown()
        request.listen()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_unchanged_outside_the_main_thread():
    before, request = signal.getsignal(signal.SIGTERM), GracefulShutdown()
    thread = threading.Thread(target=request.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_workers_survive_signals_and_end_with_their_loader():
    data = Dataset([torch.tensor(float(i)) for i in range(8)], transform=lambda x: (time.sleep(0.02), x)[1])
    loader = DataLoader(data, batch_size=1, num_workers=2, worker_init_fn=IgnoreSignals())
    iterator = iter(loader)
    found = [float(next(iterator)), float(next(iterator))]  # both workers are there
    workers = iterator._workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    found += [float(x) for x in iterator]
    assert found == [float(i) for i in range(8)]
    del iterator
    assert ended(workers)


def ended(workers) -> bool:
    limit = time.monotonic() + 10
    while any(w.is_alive() for w in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(w.is_alive() for w in workers)


def test_process_ends_with_waiting_workers():
    code = (
        f"{LEAN}; from monai.data import DataLoader, Dataset; from scripts.training.shutdown import IgnoreSignals\n"
        "loader = DataLoader(Dataset([0.0] * 9), num_workers=2, worker_init_fn=IgnoreSignals(), persistent_workers=True)\n"
        "iterator = iter(loader); next(iterator); print(*[w.pid for w in iterator._workers])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for pid in done.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_process_ends_after_a_failed_worker():
    code = (
        f"{LEAN}; from monai.data import DataLoader, Dataset; from scripts.training.shutdown import IgnoreSignals\n"
        "for _ in DataLoader(Dataset([0.0], lambda x: 1 / 0), num_workers=1, worker_init_fn=IgnoreSignals()): pass"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
