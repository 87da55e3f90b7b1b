# SPDX-License-Identifier: Apache-2.0
"""Progress of a scan and the time spent in its phases."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

logger = logging.getLogger(__name__)
LOG_LINES = 10  # of a phase

Progress = Callable[[str, int, int], None]  # phase, done, total


@dataclass
class PhaseTimer:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


class WindowCounter:
    """Progress of one phase in increments; the number of windows done.

    Args:
        progress: receives the sum; None counts only.
        phase: name of the phase.
        total: number of windows.
    """

    def __init__(self, progress: Progress | None, phase: str, total: int) -> None:
        self.progress, self.phase, self.total, self.done = progress, phase, total, 0

    def __call__(self, number: int) -> None:
        """Add windows."""
        self.done += number
        if self.progress is not None:
            self.progress(self.phase, self.done, self.total)


class ProgressBar:
    """Progress of a scan on the terminal, one bar per phase; none where the output is no terminal, such as a log."""

    def __init__(self, name: str) -> None:
        self.name, self.phase = name, ""
        self.bar: tqdm | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show the state of a phase."""
        if phase != self.phase:
            self.close()
            self.phase = phase
            self.bar = tqdm(total=total, desc=f"{self.name}: {phase}", leave=False, disable=None)
        assert self.bar is not None
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class ProgressLog:
    """Progress of a scan as lines of a log, at most ``LOG_LINES`` per phase."""

    def __init__(self) -> None:
        self.phase, self.logged = "", -1

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Log the state of a phase."""
        if phase != self.phase:
            self.phase, self.logged = phase, -1
        step = LOG_LINES * done // max(total, 1)
        if step > self.logged:
            self.logged = step
            logger.info("%s: %d of %d", phase, done, total)
