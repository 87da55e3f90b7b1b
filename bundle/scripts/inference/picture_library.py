# SPDX-License-Identifier: Apache-2.0
"""Import of matplotlib beside the network, so that neither the first window nor the first picture waits for it."""

from __future__ import annotations

import contextlib
import sys
import threading

from .progress import Progress


def _load() -> None:
    with contextlib.suppress(ImportError):  # an environment without it, such as MONAI Label's
        import matplotlib.figure  # noqa: F401


def load_beside(progress: Progress) -> Progress:
    """Progress that begins to import matplotlib in a thread when the first windows of a pass are predicted."""
    begun = threading.Event()

    def report(phase: str, done: int, total: int) -> None:
        if done and phase.partition(",")[0].endswith("pass") and not begun.is_set():
            begun.set()
            if "matplotlib.figure" not in sys.modules:
                threading.Thread(target=_load, daemon=True, name="matplotlib").start()
        progress(phase, done, total)

    return report
