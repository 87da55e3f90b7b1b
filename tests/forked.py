# SPDX-License-Identifier: Apache-2.0
"""Processes forked from one that has imported the libraries, for tests of several processes whose start is not what is tested.

Every command of its own imports PyTorch and MONAI, which takes ten seconds of processor time; a fork of a process that has
them takes none. Signals, exit status, output and files are those of any other process. Data workers (`num_workers` above 0)
have a server of their own, for which such a process waits for ever: a test of them starts a command.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from conftest import BUNDLE, python_path
from scripts.experiments.launch import Outcome

PRELOAD = ["monai.bundle", "scripts.commands", "scripts.experiments.search", "scripts.experiments.suite.run"]
PRELOAD += [
    "scripts.training.fit",
    "scripts.training.resume",
    "scripts.training.distributed.synchronous",
    "scripts.evaluation.report",
]
PRELOAD += ["fire", "optuna", "matplotlib.pyplot", "torch._dynamo", "torch.utils.tensorboard"]


@cache
def context() -> multiprocessing.context.ForkServerContext:
    """Context whose server has imported the libraries and has computed nothing, so that it has no threads of PyTorch."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(PRELOAD)
    before = dict(os.environ)
    os.environ.update({"PYTHONPATH": python_path(BUNDLE), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return forks


def _enter(log: Path, environment: Mapping[str, str], folder: Path, target: Callable, arguments: Sequence) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path += [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    os.chdir(folder)
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    target(*arguments)


class Forked:
    """A process with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, process: BaseProcess) -> None:
        self._process, self.pid = process, process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, negative for a signal; ``TimeoutExpired`` for a process that has not ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(log: Path, target: Callable, *arguments: object, folder: Path = BUNDLE, **environment: str) -> Forked:
    """Fork a process, leader of a group, that calls a function of a module with its output appended to a log."""
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **environment}
    process = context().Process(target=_enter, args=(log, variables, folder, target, arguments))
    process.start()
    forked = Forked(process)
    atexit.register(forked.kill)  # before multiprocessing waits for it: one that hangs fails its test, not the end of the tests
    return forked


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run a module as ``python -m NAME ARGUMENTS`` does."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def launch(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, poll: Callable[[], bool] | None = None
) -> Outcome:
    """Stand-in of ``scripts.experiments.launch.launch`` for ``python ... -m MODULE ARGUMENTS``; memory is not measured."""
    begun, stopped, at = time.perf_counter(), False, list(command).index("-m")
    process = start(log, run_module, command[at + 1], list(command[at + 2 :]), **(environment or {}))
    while process.poll() is None:
        if poll is not None and not stopped and not poll():
            process.send_signal(signal.SIGTERM)
            stopped = True
        time.sleep(0.05)
    return Outcome(process.wait(), time.perf_counter() - begun, None, stopped)
