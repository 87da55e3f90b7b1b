# SPDX-License-Identifier: Apache-2.0
"""The package's trainer on batches in memory: its steps per second, its synchronisations and its kernels."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from scripts.training.gradient_clipping import GradientClipping
from scripts.training.graphed_step import graphed_step
from scripts.training.moving_average import MovingAverage

from .settings import Row, Settings
from .steps import Training
from .timing import synchronize

SYNCHRONISING = "synchronizing CUDA operation"
SHOWN = 12  # rows of a table


def build_trainer(settings: Settings, training: Training, steps: int, graphed: bool = True) -> SupervisedTrainer:
    """MONAI's trainer with the loss, optimizer, randomisation and handlers of shipped.yaml, without files and schedule.

    Args:
        settings: settings of the part.
        training: network and batch.
        steps: steps of its only epoch, each on the same batch of the loader.
        graphed: as a CUDA graph, where there is a GPU.
    """
    parser = training.parser
    return SupervisedTrainer(
        device=torch.device(settings.device),
        max_epochs=1,
        train_data_loader=[training.batch] * steps,
        network=parser.get_parsed_content("train::trainer::network") if settings.cuda else training.network,
        optimizer=training.optimizer,
        loss_function=parser.get_parsed_content("vertebra_loss"),
        prepare_batch=training.prepare,
        inferer=SimpleInferer(),
        train_handlers=[GradientClipping(training.max_norm), MovingAverage(training.network)],
        iteration_update=graphed_step("auto" if graphed else False, settings.device),
        amp=settings.cuda,
        amp_kwargs={"dtype": torch.bfloat16},
    )


def trainer_rate(
    settings: Settings, training: Training, deterministic: bool, graphed: bool = True, warm_up: int = 5, blocks: int = 4
) -> list[float]:
    """Seconds per step of the trainer in blocks of steps.

    Args:
        settings: settings of the part.
        training: network and batch.
        deterministic: deterministic algorithms as in train.yaml; else the fastest of cuDNN.
        graphed: as a CUDA graph.
        warm_up: steps that are not counted.
        blocks: blocks of steps.
    """
    length = (10 if settings.short else 25) if settings.cuda else 1
    warm_up = warm_up if settings.cuda else 1
    trainer = build_trainer(settings, training, warm_up + blocks * length, graphed)
    times: list[float] = []

    def completed(engine: Any) -> None:
        done = engine.state.iteration - warm_up
        if done >= 0 and done % length == 0:
            synchronize(settings.device)
            times.append(time.perf_counter())

    trainer.add_event_handler(Events.ITERATION_COMPLETED, completed)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = not deterministic
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.run()
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
    return [(b - a) / length for a, b in pairwise(times)]


def synchronisations(settings: Settings, row: Row, steps: int = 4) -> dict[str, Any]:
    """Report the lines that wait for the device, by the number of times per step; columns of the sum."""
    training = Training(settings)
    build_trainer(settings, training, 3).run()
    trainer = build_trainer(settings, training, steps)
    found: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if SYNCHRONISING in str(warning.message):
            found["/".join(Path(warning.filename).parts[-3:]) + f":{warning.lineno}"] += 1
    for line, count in found.most_common(SHOWN):
        row("synchronisations", {"line": line, "per step": count / steps})
    return {"per step": sum(found.values()) / steps, "note": "the package's trainer, without loader and schedule"}


def kernels(settings: Settings, row: Row, steps: int = 3) -> dict[str, Any]:
    """Report the kernels that take most of a step of the trainer; columns of the sum."""
    from torch.profiler import ProfilerActivity, profile

    torch.backends.cudnn.benchmark = True
    training = Training(settings, dtype=torch.bfloat16)
    for _ in range(4):
        training.randomised_step()
    synchronize(settings.device)
    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(steps):
            training.randomised_step()
        synchronize(settings.device)
    elapsed = time.perf_counter() - begin
    events = sorted(recorded.key_averages(), key=lambda e: e.self_device_time_total, reverse=True)
    events = [e for e in events if e.self_device_time_total > 0]
    for event in events[:SHOWN]:
        milliseconds = event.self_device_time_total / 1000 / steps
        row("kernels", {"kernel": event.key[:90], "ms a step": milliseconds, "calls a step": event.count / steps})
    busy = sum(e.self_device_time_total for e in events) / 1e6
    columns = {"ms a step": 1000 * busy / steps, "calls a step": sum(e.count for e in events) / steps}
    return {**columns, "note": f"device busy {busy / elapsed:.0%} of the time, under the profiler; eager, randomised"}
