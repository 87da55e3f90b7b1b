# SPDX-License-Identifier: Apache-2.0
"""Time and memory of work on a device, which the host only enqueues."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

MIB = 2**20


def synchronize(device: str) -> None:
    """Wait until the device is idle."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def repeated(work: Callable[[], Any], device: str, seconds: float, blocks: int = 5, warm_up: int = 3) -> list[float]:
    """Seconds per call in blocks of calls without a synchronisation between them.

    Args:
        work: enqueues the work.
        device: PyTorch device.
        seconds: time of all blocks together, roughly.
        blocks: number of blocks.
        warm_up: calls before, not counted.
    """
    for _ in range(warm_up):
        work()
    synchronize(device)
    begin = time.perf_counter()
    work()
    synchronize(device)
    calls = max(round(seconds / blocks / max(time.perf_counter() - begin, 1e-6)), 1)
    result = []
    for _ in range(blocks):
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        result.append((time.perf_counter() - begin) / calls)
    return result


def reset_peak(device: str) -> None:
    """Forget the peak of the device's memory."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mib(device: str) -> float | None:
    """Peak of the memory of tensors since ``reset_peak`` (MiB); None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / MIB) if device.startswith("cuda") else None


def relative_error(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Relative error: norm of the difference divided by that of the reference."""
    reference, other = reference.detach().double().cpu(), other.detach().double().cpu()
    return float((other - reference).norm() / reference.norm().clamp_min(1e-30))


class PhaseClock:
    """Milliseconds of the phases of a step, on the device by CUDA events and on the host until the phase was enqueued.

    Args:
        device: PyTorch device; on a CPU both times are those of the host.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.steps: list[list[tuple[str, Any, float]]] = []

    def mark(self, phase: str) -> None:
        """End a phase; "" begins a step."""
        event = None
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        if phase == "":
            self.steps.append([])
        self.steps[-1].append((phase, event, time.perf_counter()))

    def medians(self) -> dict[str, tuple[float, float]]:
        """Median milliseconds of every phase on the device and on the host."""
        if self.cuda:
            torch.cuda.synchronize()
        result: dict[str, list[tuple[float, float]]] = {}
        for marks in self.steps:
            for (_, start, begin), (phase, end, finish) in pairwise(marks):
                host = 1000 * (finish - begin)
                result.setdefault(phase, []).append((start.elapsed_time(end) if self.cuda else host, host))
        return {p: (float(np.median([d for d, _ in t])), float(np.median([h for _, h in t]))) for p, t in result.items()}


class Timed:
    """Transform whose end is marked, named after it; the first also holds the copy of the batch to the device.

    Args:
        transform: callable of one argument.
        clock: receives the marks.
    """

    def __init__(self, transform: Callable[[Any], Any], clock: PhaseClock) -> None:
        self.transform, self.clock = transform, clock

    def __call__(self, batch: Any) -> Any:
        """Apply the transform."""
        result = self.transform(batch)
        self.clock.mark(type(self.transform).__name__)
        return result
