# SPDX-License-Identifier: Apache-2.0
"""Training steps per second: eager, compiled and as a CUDA graph, with and without randomisation; the parts of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .settings import Row, Settings, attempt
from .steps import FULL_WIDTH, Training
from .timing import PhaseClock, Timed, peak_mib, relative_error, repeated, reset_peak, synchronize
from .trainer import kernels, synchronisations, trainer_rate

SHIPPED, FULL = "shipped", "full width"
LEAST = 1.0  # s
DTYPES = {"bfloat16": torch.bfloat16, "float32": None}


def _columns(settings: Settings, training: Training, seconds: Sequence[float], operations: float, dtype: str) -> dict[str, Any]:
    """Columns of a row from seconds per step in blocks."""
    middle = float(np.median(seconds))
    rate = settings.rates.get(dtype)
    share = f"{operations / middle / rate:.1%}" if rate else None
    return {
        "ms a step": 1000 * middle,
        "range": f"{1000 * min(seconds):.4g} to {1000 * max(seconds):.4g}",
        "steps/s": 1 / middle,
        "slices/s": training.batch_size / middle,
        "of the convolution rate": share,
        "GPU MiB": peak_mib(settings.device),
    }


def _seconds(settings: Settings) -> float:
    return (0.8 if settings.short else 2.0) if settings.cuda else 0.01


def _measure(
    settings: Settings, row: Row, network: str, mode: str, dtype: str, build: Callable[[], tuple[Training, Callable, dict]]
) -> None:
    """Report the row of a mode; ``build`` returns the training, its step, and further columns."""

    def measure() -> dict[str, Any]:
        reset_peak(settings.device)
        training, step, more = build()
        operations = training.operations()
        seconds = repeated(step, settings.device, _seconds(settings))
        return {**_columns(settings, training, seconds, operations, dtype), **more}

    attempt(row, "training", {"network": network, "mode": mode, "dtype": dtype}, measure)


def _eager(settings: Settings, overlays: Sequence[str], dtype: str, randomised: bool) -> Callable:
    def build() -> tuple[Training, Callable, dict]:
        training = Training(settings, overlays, DTYPES[dtype])
        return training, training.randomised_step if randomised else training.step, {}

    return build


def _graph(settings: Settings, overlays: Sequence[str], dtype: str, randomised: bool) -> Callable:
    def build() -> tuple[Training, Callable, dict]:
        training = Training(settings, overlays, DTYPES[dtype], capturable=True)
        replay = training.graphed()

        def randomised_replay() -> None:
            training.randomise()
            replay()

        return training, randomised_replay if randomised else replay, {}

    return build


def _compile(settings: Settings, overlays: Sequence[str], dtype: str, graphed: bool) -> Callable:
    def build() -> tuple[Training, Callable, dict]:
        training = Training(settings, overlays, DTYPES[dtype], capturable=graphed)
        with training.autocast():
            expected = training.network(training.image).detach()
        begin = time.perf_counter()
        # Without a GPU the compiler is not run: it takes minutes and gains nothing.
        training.forward = torch.compile(training.network, dynamic=False, backend="inductor" if settings.cuda else "eager")
        with training.autocast():
            logits = training.forward(training.image).detach()
        training.step()
        synchronize(settings.device)
        more: dict[str, Any] = {"s to compile": time.perf_counter() - begin, "error of logits": relative_error(expected, logits)}
        return training, training.graphed() if graphed else training.step, more

    return build


def _phases(settings: Settings, row: Row, network: str, overlays: Sequence[str]) -> dict[str, Any]:
    """Report the median milliseconds of every phase of a step; the sum."""
    training = Training(settings, overlays, torch.bfloat16)
    for _ in range(3):
        training.randomised_step()
    clock = training.clock = PhaseClock(settings.device)
    for _ in range(10 if settings.cuda else 2):
        synchronize(settings.device)
        training.randomised_step()
    medians = clock.medians()
    total = sum(d for d, _ in medians.values())
    for phase, (on_device, on_host) in medians.items():
        share = f"{on_device / total:.0%}"
        columns = {"network": network, "phase": phase, "ms on the device": on_device, "share": share}
        row("phases", {**columns, "ms to enqueue on the host": on_host})
    return {"ms on the device": total, "ms to enqueue on the host": sum(h for _, h in medians.values())}


def _transforms(settings: Settings, row: Row) -> dict[str, Any]:
    """Report the median milliseconds of every transform of the randomisation; the sum."""
    training = Training(settings)
    clock = PhaseClock(settings.device)
    training.prepare.transforms = [Timed(t, clock) for t in training.prepare.transforms]  # type: ignore[attr-defined]
    for _ in range(13 if settings.cuda else 2):
        synchronize(settings.device)
        clock.mark("")
        training.prepare(training.batch, settings.device, non_blocking=True)
        clock.mark("scaling and cropping")
    del clock.steps[: 3 if settings.cuda else 0]
    medians = clock.medians()
    for phase, (on_device, on_host) in medians.items():
        row("randomisation", {"transform": phase, "ms on the device": on_device, "ms to enqueue on the host": on_host})
    device, host = (sum(m[k] for m in medians.values()) for k in (0, 1))
    return {"ms on the device": device, "ms to enqueue on the host": host}


def _graphs(settings: Settings, row: Row, network: str, overlays: Sequence[str]) -> None:
    for randomised in (False, True) if settings.cuda else ():
        mode = "CUDA graph, randomised" if randomised else "CUDA graph"
        _measure(settings, row, network, mode, "bfloat16", _graph(settings, overlays, "bfloat16", randomised))


def _eager_rows(settings: Settings, row: Row, network: str, overlays: Sequence[str]) -> None:
    torch.backends.cudnn.benchmark = True
    for mode, randomised in (("eager", False), ("eager, randomised", True)):
        _measure(settings, row, network, mode, "bfloat16", _eager(settings, overlays, "bfloat16", randomised))
    attempt(row, "phases", {"network": network, "phase": "all"}, lambda: _phases(settings, row, network, overlays))


def _trainer(settings: Settings, row: Row, network: str, overlays: Sequence[str], deterministic: bool, graphed: bool) -> None:
    dtype = "bfloat16" if settings.cuda else "float32"

    def measure() -> dict[str, Any]:
        reset_peak(settings.device)
        training = Training(settings, overlays)
        seconds = trainer_rate(settings, training, deterministic, graphed)
        return _columns(settings, training, seconds, training.operations(), dtype)

    mode = "the package's trainer" + (", CUDA graph" if graphed else "") + (", deterministic" if deterministic else "")
    attempt(row, "training", {"network": network, "mode": mode, "dtype": dtype}, measure)


def shipped(settings: Settings, row: Row) -> None:
    """Measure the network and batch of the shipped weights, and the package's trainer; the most important rows first."""
    _eager_rows(settings, row, SHIPPED, ())
    for graphed in (True, False):
        _trainer(settings, row, SHIPPED, (), deterministic=False, graphed=graphed)
    _graphs(settings, row, SHIPPED, ())
    attempt(row, "randomisation", {"transform": "all"}, lambda: _transforms(settings, row))
    if settings.cuda:
        attempt(row, "synchronisations", {"line": "all"}, lambda: synchronisations(settings, row))
    _trainer(settings, row, SHIPPED, (), deterministic=True, graphed=True)
    _measure(settings, row, SHIPPED, "eager", "float32", _eager(settings, (), "float32", False))
    if settings.cuda:
        attempt(row, "kernels", {"kernel": "all"}, lambda: kernels(settings, row))


def compiled(settings: Settings, row: Row) -> None:
    """Measure the compiled network of the shipped weights, also inside a CUDA graph."""
    torch.backends.cudnn.benchmark = True
    _wait_for_compiler(settings)
    begin = time.time()
    _measure(settings, row, SHIPPED, "compiled", "bfloat16", _compile(settings, (), "bfloat16", False))
    if settings.cuda and settings.left() > time.time() - begin:
        _measure(settings, row, SHIPPED, "compiled, CUDA graph", "bfloat16", _compile(settings, (), "bfloat16", True))


def full_width(settings: Settings, row: Row) -> None:
    """Measure the widths of the standard U-Net, compiled last."""
    overlays = (FULL_WIDTH,)
    _eager_rows(settings, row, FULL, overlays)
    _trainer(settings, row, FULL, overlays, deterministic=False, graphed=True)
    _graphs(settings, row, FULL, overlays)
    _measure(settings, row, FULL, "eager", "float32", _eager(settings, overlays, "float32", False))
    _measure(settings, row, FULL, "compiled", "bfloat16", _compile(settings, overlays, "bfloat16", False))


def prepare(settings: Settings, row: Row) -> None:
    """Compile the network of the shipped weights into the compiler's cache, beside other parts, for runs of few minutes."""
    marker(settings).unlink(missing_ok=True)
    begin = time.perf_counter()
    try:
        _, _, more = _compile(settings, (), "bfloat16", False)()
        columns = {"network": SHIPPED, "dtype": "bfloat16", "s with imports of the compiler": time.perf_counter() - begin}
        row("compiler", {**columns, **more})
    finally:
        marker(settings).touch()


def marker(settings: Settings) -> Path:
    """File that ``prepare`` leaves when it has ended."""
    return Path(settings.out) / "parts" / "compiler_cache_is_filled"


def _wait_for_compiler(settings: Settings) -> None:
    while settings.prepared and not marker(settings).is_file():
        if settings.left() < LEAST:
            raise TimeoutError("the compiler had not ended beside the other parts; allow more minutes")
        time.sleep(0.1)
