# SPDX-License-Identifier: Apache-2.0
"""A request to end: SIGTERM, as clusters send it, or Ctrl-C."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = ("SIGTERM", "SIGINT")


class GracefulShutdown:
    """Note a signal, so that work ends between two steps; the same signal a second time ends the process at once.

    Only the main thread of a process can do so; elsewhere, as inside a server, signals stay what they were.

    Attributes:
        name: of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Begin to note signals."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        for name in SIGNALS:
            number = getattr(signal, name)
            before = signal.getsignal(number)
            # Whoever ignores a signal (nohup), or has a handler that no Python code set, wants it to stay so.
            if before is not None and before is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def release(self) -> None:
        """Give the signals back."""
        while self._before and threading.current_thread() is threading.main_thread():
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.name = signal.Signals(number).name


def exit_status(name: str) -> int:
    """Status by which shells know a process that a signal ended: 128 and its number."""
    return 128 + int(getattr(signal, name))


class IgnoreSignals:
    """Make a data worker leave signals to its parent: clusters and terminals send them to all processes of a job.

    A worker that ended at once would fail the training before it could save its state. When the parent itself ends, it ends
    workers that are left with SIGTERM and waits for them; from then on they obey.
    """

    def __init__(self) -> None:
        self.ending = multiprocessing.RawValue("b", 0)  # the one thing that a worker sees change in its parent
        atexit.register(
            setattr, self.ending, "value", 1
        )  # before Python looks after its workers, as it was asked later

    def __call__(self, worker_id: int) -> None:
        """Run at the start of a worker."""
        from monai.data.utils import worker_init_fn

        worker_init_fn(worker_id)  # what MONAI's loader does otherwise
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._answer)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self.ending.value:
            os._exit(0)
