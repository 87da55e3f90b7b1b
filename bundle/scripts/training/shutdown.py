# SPDX-License-Identifier: Apache-2.0
"""Graceful shutdown on SIGTERM, which clusters send, or Ctrl-C."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from types import FrameType

SIGNALS = ("SIGTERM", "SIGINT")


class GracefulShutdown:
    """Record of a signal, so that work ends between two steps; a second signal ends the process at once.

    Only the main thread of a process can handle signals; elsewhere, as inside a server, handlers are unchanged.

    Attributes:
        name: name of the signal received, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None

    def listen(self) -> None:
        """Install the handlers; ``fit`` restores the former ones."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in SIGNALS:
            number = getattr(signal, name)
            before = signal.getsignal(number)
            # An ignored signal (nohup), or a handler that no Python code set, is deliberate.
            if before is not None and before is not signal.SIG_IGN:
                signal.signal(number, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.name = signal.Signals(number).name


def exit_status(name: str) -> int:
    """Exit status of a process that a signal ended: 128 plus its number."""
    return 128 + int(getattr(signal, name))


class IgnoreSignals:
    """``worker_init_fn`` by which a data worker ignores signals: clusters and terminals send them to all processes of a job.

    A worker that ended at once would fail the training before it could save its state. When the parent itself ends, it ends the
    remaining workers by SIGTERM and waits for them; from then on the signal is obeyed.
    """

    def __init__(self) -> None:
        self.ending = multiprocessing.RawValue("b", 0)  # shared with the workers
        # Registered after multiprocessing's own exit handler, so that it runs before it.
        atexit.register(setattr, self.ending, "value", 1)

    def __call__(self, worker_id: int) -> None:
        """Initialise a worker."""
        from monai.data.utils import worker_init_fn

        worker_init_fn(worker_id)  # the default of MONAI's loader
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self.ending.value:
            os._exit(0)
