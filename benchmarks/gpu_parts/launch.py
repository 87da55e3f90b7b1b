# SPDX-License-Identifier: Apache-2.0
"""A part in a process of its own: forked, so that libraries are imported once for all parts, with its own log and time limit."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .settings import Row, RowFile, Settings

Part = Callable[[Settings, Row], None]
WITHOUT_DEVICE = ("scans",)  # parts that leave the device alone
FAILED = "failed"  # table of a row that holds the reason


def execute(name: str, part: Part, settings: Settings) -> int:
    """Run a part in this process; the exit status. The reason of a failure is reported as a row."""
    row = RowFile(Path(settings.out) / "parts" / f"{name}.jsonl")
    try:
        if settings.cuda and ":" in settings.device:
            import torch

            torch.cuda.set_device(settings.device)
        part(settings, row)
    except BaseException as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        row(FAILED, {"reason": f"{type(error).__name__}: {lines[0][:300]}"})
        return 1
    return 0


def _forked_badly(settings: Settings) -> bool:
    """True where a library initialised CUDA before the fork, so that it cannot be used after it."""
    torch = sys.modules.get("torch")
    if not settings.cuda or torch is None:
        return False
    try:
        torch.zeros(1, device=settings.device)
    except RuntimeError as error:
        print(f"a new interpreter is started: {error}", flush=True)
        return True
    return False


def _child(name: str, part: Part, settings: Settings, script: str, fresh: bool) -> None:
    os.setsid()
    log = os.open(Path(settings.out) / "parts" / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if fresh or (name not in WITHOUT_DEVICE and _forked_badly(settings)):
        values = json.dumps(asdict(settings))
        os.execv(sys.executable, [sys.executable, "-W", "ignore", script, "child", name, values])
    os._exit(execute(name, part, settings))


class Process:
    """Running part.

    Args:
        name: name of the part; rows and log are named after it.
        part: function of the part.
        settings: its settings, with the deadline.
        script: script that runs the part in a new interpreter, where a fork cannot.
        fresh: always use a new interpreter.
    """

    def __init__(self, name: str, part: Part, settings: Settings, script: str, fresh: bool = False) -> None:
        self.name, self.settings, self.status = name, settings, -1
        self.rows = RowFile(Path(settings.out) / "parts" / f"{name}.jsonl")
        self.rows.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows.path.unlink(missing_ok=True)
        self.begin = time.time()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads of NumPy, which handles forks
            self.pid = os.fork()
        if self.pid == 0:
            try:
                _child(name, part, settings, script, fresh)
            finally:
                os._exit(1)
        self.running = True

    def poll(self) -> bool:
        """True while the part runs; a part past its deadline is killed with all processes that it started."""
        if self.running and time.time() > self.settings.deadline:
            self.kill()
            self.rows(FAILED, {"reason": f"ran over its limit of {self.settings.deadline - self.begin:.0f} s"})
        if self.running:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.running, self.status = False, status
        return self.running

    def kill(self) -> None:
        """End the part and the processes that it started."""
        if not self.running:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGKILL)
        _, self.status = os.waitpid(self.pid, 0)
        self.running = False

    def result(self) -> tuple[list[dict], str]:
        """Rows of the part, and the reason of a failure or ""."""
        rows = self.rows.read()
        reasons = [r["row"]["reason"] for r in rows if r["table"] == FAILED]
        if not reasons and not self.running and self.status:
            number = os.waitstatus_to_exitcode(self.status)
            reasons = [f"ended by signal {-number}" if number < 0 else f"exit status {number}"]
        return [r for r in rows if r["table"] != FAILED], "; ".join(reasons)
