# SPDX-License-Identifier: Apache-2.0
"""Division of a wall-clock time among the runs of a suite: equal times of training, with time left for the scores."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.paths import SUITES
from .definition import Run, Suite, Variant
from .stages import run_configs

OVERLAY = SUITES / "by_time.yaml"
BUDGET_FILE = "budget.json"  # in the folder of the results: the time of each training of all calls
ENDLESS = 100000  # epochs; more than any time allows
START_MINUTES = 0.75  # of a training: start of the process, loading of the data, last validation
SCORING_FRACTION = 0.25  # of the whole time
LEAST_MINUTES = 0.05  # of a training


@dataclass(frozen=True)
class Budget:
    """Wall-clock time of a suite.

    Attributes:
        minutes: time of the whole suite.
        training: time of each training, from its first step to its last.
        deadline: end by the clock of ``time.monotonic``.
    """

    minutes: float
    training: float
    deadline: float

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def divide(
    minutes: float, runs: int, jobs: int, start_minutes: float = START_MINUTES, scoring_minutes: float | None = None
) -> float:
    """Minutes of each training: equal for all, so that all of them and their scores fit into a time.

    Args:
        minutes: wall-clock time of all runs.
        runs: number of runs.
        jobs: runs at once.
        start_minutes: time of a training outside its steps.
        scoring_minutes: time for the scores of all runs; a quarter of the whole by default.

    Raises:
        InputError: for a time out of range, or too little of it.
    """
    scoring = SCORING_FRACTION * minutes if scoring_minutes is None else scoring_minutes
    for name, value in (("minutes", minutes), ("start_minutes", start_minutes), ("scoring_minutes", scoring)):
        if not math.isfinite(value) or value < 0:
            raise InputError(f"{name}={value}: must be a time of 0 or more minutes")
    rounds = math.ceil(runs / jobs)
    training = (minutes - scoring) / rounds - start_minutes
    if training < LEAST_MINUTES:
        least = rounds * (start_minutes + LEAST_MINUTES)
        least = least / (1 - SCORING_FRACTION) if scoring_minutes is None else least + scoring
        raise InputError(
            f"minutes={minutes:g}: leaves no time for {runs} trainings, {jobs} at once; needs {math.ceil(least)} minutes, "
            "more --jobs, fewer --members or --seeds"
        )
    return math.floor(1000 * training) / 1000


def stored_training(root: Path) -> float | None:
    """Minutes of each training of earlier calls into a folder of results, None before the first; ``InputError`` when damaged."""
    path = root / BUDGET_FILE
    if not path.is_file():
        return None
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["training_minutes"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: is damaged; delete it, or choose another --out") from None


def by_time(suite: Suite, minutes: float) -> Suite:
    """Suite whose trainings end after ``minutes`` instead of after epochs.

    A learning rate that follows the number of epochs follows the time instead, by a cosine; other schedules stay as they are.
    """
    return replace(suite, variants=tuple(_by_time(suite, variant, minutes) for variant in suite.variants))


def _by_time(suite: Suite, variant: Variant, minutes: float) -> Variant:
    content, _ = run_configs(suite, Run(variant, suite.seeds[0]))
    overrides: dict[str, Any] = {"epochs": ENDLESS, "max_minutes": minutes, "patience": None}  # the time is spent
    configs = variant.training_configs
    if "@epochs" in json.dumps(content["lr_scheduler"], default=str):
        target = "scripts.training.schedule.WarmupCosine"
        overrides |= {"lr_scheduler": {"_target_": target, "optimizer": "@optimizer", "warmup": 20}}
        overrides |= {"lr_metric": "$lambda engine: ()"}
        configs = (*configs, str(OVERLAY))
    return replace(variant, training_configs=configs, training_overrides={**variant.training_overrides, **overrides})
