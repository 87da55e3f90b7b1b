# SPDX-License-Identifier: Apache-2.0
"""Bundle runs as processes of their own: started, watched, measured, ended."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.paths import BUNDLE

# Keep freed memory in the process: training allocates the same large buffers in every step (glibc; ignored elsewhere).
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
TAIL = 15  # lines of a log that say why a run failed


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: exit status; negative for a signal.
        seconds: wall time.
        peak_mib: largest resident memory (MiB), workers not included; None where the system does not tell.
        stopped: whether the watcher ended it.
    """

    code: int
    seconds: float
    peak_mib: float | None
    stopped: bool = False


def bundle_command(run_id: str, config: Path, options: Mapping[str, object]) -> list[str]:
    """Command line of ``python -m monai.bundle run`` with one config and options by id."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", str(config), "--meta_file", str(BUNDLE / "configs" / "metadata.json")]
    command += ["--logging_file", str(BUNDLE / "configs" / "logging.conf")]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    return command


def launch(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[], bool] | None = None,
    interval: float = 1.0,
) -> Outcome:
    """Run a command inside the bundle, its output appended to a log.

    Args:
        command: program and arguments.
        log: file that grows.
        environment: variables on top of this process's.
        watch: called every ``interval`` seconds; False ends the process.
        interval: seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start, stopped = time.perf_counter(), False
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            list(command),
            cwd=BUNDLE,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**MEMORY, **os.environ, "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg", **(environment or {})},
            start_new_session=True,
        )
        peak: list[float] = []
        ended = threading.Event()

        def wait() -> None:
            if hasattr(os, "wait4"):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                peak.append(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20))
            else:
                process.wait()
            ended.set()

        threading.Thread(target=wait, daemon=True).start()
        try:
            while not ended.wait(interval):
                if watch is not None and not stopped and not watch():
                    stopped = True
                    end(process)
        except BaseException:
            end(process)
            ended.wait(20)
            raise
    return Outcome(process.returncode, time.perf_counter() - start, peak[0] if peak else None, stopped)


def end(process: subprocess.Popen, patience: float = 10.0) -> None:
    """End a process and its workers: by request, then by force."""
    for sign in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        try:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, sign)
            else:
                process.terminate()
        except ProcessLookupError:
            return
        limit = time.monotonic() + patience
        while time.monotonic() < limit:
            if process.returncode is not None:
                return
            time.sleep(0.1)


def tail(log: Path, lines: int = TAIL) -> list[str]:
    """Last lines of a log, progress bars left out."""
    if not log.is_file():
        return []
    text = log.read_bytes()[-20000:].decode("utf-8", "replace")
    kept = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in kept if line and "it/s" not in line and "s/it" not in line][-lines:]


def last_row(history: Path) -> dict[str, float]:
    """Last row of a ``history.csv``; empty while there is none."""
    try:
        with history.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return {}
    return {k: float(v) for k, v in rows[-1].items() if v} if rows else {}
