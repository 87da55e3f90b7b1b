# SPDX-License-Identifier: Apache-2.0
"""Bundle runs as subprocesses: one process per run folder, several at once, none of which outlives its parent."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.paths import BUNDLE

# Keep freed memory in the process: training allocates the same large buffers in every step (glibc; ignored elsewhere).
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
POLL_S = 0.5
GRACE_S = 10.0  # between SIGTERM and SIGKILL
PR_SET_PDEATHSIG = 1

Variables = Mapping[str, str]  # of the environment
Poll = Callable[[], bool] | None  # a process is ended when it returns False


def bundle_command(run_id: str, config: Path, options: Mapping[str, object]) -> list[str]:
    """Command line of ``python -m monai.bundle run`` with one config and options by id; it runs in the folder ``BUNDLE``."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", str(config), "--meta_file", str(BUNDLE / "configs" / "metadata.json")]
    command += ["--logging_file", str(BUNDLE / "configs" / "logging.conf")]
    return command + [text for key, value in options.items() for text in (f"--{key}", str(value))]


@dataclass(frozen=True)
class Outcome:
    """End of a process."""

    code: int  # exit status; negative for a signal
    seconds: float  # wall time
    peak_mib: float | None  # largest resident memory (MiB) without data workers; None on systems without ``wait4``
    stopped: bool = False  # ended by ``poll``


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process and its data workers."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def launch(
    command: Sequence[str], log: Path, environment: Variables | None = None, poll: Poll = None, interval: float = POLL_S
) -> Outcome:
    """Run a command in the bundle's folder, its output appended to a log.

    ``poll`` is called every ``interval`` seconds; the process is ended when it returns False.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start, stopped, deadline, peak_mib = time.perf_counter(), False, float("inf"), None
    variables = {**MEMORY, **os.environ, "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg", **(environment or {})}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BUNDLE), variables.get("PYTHONPATH")]))
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        if sys.platform.startswith("linux"):
            # A worker killed by SIGKILL cannot end its training, which would write into the folder of the run that resumes it.
            command = [sys.executable, "-m", "scripts.experiments.launch", str(os.getpid()), *command]
        streams: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=BUNDLE, env=variables, start_new_session=True, **streams)
    try:
        while True:
            if hasattr(os, "wait4"):
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    peak_mib = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
                    break
            elif process.poll() is not None:
                break
            if poll is not None and not stopped and not poll():
                stopped, deadline = True, time.monotonic() + GRACE_S
                _signal(process, signal.SIGTERM)
            if time.monotonic() > deadline:
                _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
            time.sleep(interval)
    finally:
        if stopped or process.returncode is None:
            _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    return Outcome(process.returncode, time.perf_counter() - start, peak_mib, stopped)


def tail(log: Path, lines: int = 15) -> list[str]:
    """Last lines of a log without progress bars."""
    if not log.is_file():
        return []
    text = log.read_bytes()[-20000:].decode("utf-8", "replace")
    plain = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in plain if line and "it/s" not in line and "s/it" not in line][-lines:]


def worker_environments(jobs: int, gpus: Sequence[int] | None) -> list[dict[str, str]]:
    """Variables of the processes of each worker: GPUs in turn, at least one worker for each, and an equal part of the CPU cores."""
    if jobs < 1:
        raise InputError(f"jobs={jobs}: must be at least 1")
    if gpus:
        number = max(jobs, len(gpus))
        threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // number, 1))} if number > len(gpus) else {}
        return [{"CUDA_VISIBLE_DEVICES": str(gpus[k % len(gpus)]), **threads} for k in range(number)]
    if jobs == 1:
        return [{}]
    return [{"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs, 1))} for _ in range(jobs)]


@contextmanager
def stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` on SIGINT and SIGTERM in place of an exception, so that every worker can end its process in order."""
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(jobs: Sequence, work: Callable[[Any, Variables, threading.Event], None], environments: Sequence[Variables]) -> bool:
    """Call ``work(job, environment, stop)`` for all jobs, one per environment at once; False when a signal ended the work."""
    stop, unused = threading.Event(), queue.SimpleQueue[Variables]()
    for variables in environments:
        unused.put(variables)

    def run_job(job: Any) -> None:
        variables = unused.get()
        try:
            if not stop.is_set():
                work(job, variables, stop)
        except BaseException:
            stop.set()
            raise
        finally:
            unused.put(variables)

    with stop_on_signal(stop), ThreadPoolExecutor(len(environments)) as pool:
        for future in [pool.submit(run_job, job) for job in jobs]:
            future.result()
    return not stop.is_set()


def main() -> None:
    """Replace this process by a command that is killed with its parent: ``launch PARENT COMMAND...``."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        raise SystemExit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
