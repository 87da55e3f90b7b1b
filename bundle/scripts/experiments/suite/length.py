# SPDX-License-Identifier: Apache-2.0
"""Length of the trainings of a suite: an equal number of steps, or until validation no longer improves."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...core.errors import InputError
from ...core.paths import CONFIGS
from .config import load_config
from .definition import Run, Suite, Variant
from .stages import run_configs

PLATEAU = "plateau"
# Ids of train.yaml for early stopping and the learning rate that falls before it, as far as the paper states them.
STOPPING = (
    "epochs",
    "steps_per_epoch",
    "warmup_epochs",
    "patience",
    "lr_factor",
    "lr_patience",
    "val_interval",
    "lr_scheduler",
    "lr_metric",
)
FOLLOWS_PROGRESS = "time_limit.progress"  # in handlers of recipes whose learning rate follows the progress of the training


def _settings(suite: Suite, variant: Variant) -> dict[str, Any]:
    return run_configs(suite, Run(variant, suite.seeds[0]))[0]


def by_steps(suite: Suite, steps: int, members: Collection[str] | None = None) -> Suite:
    """Suite whose trainings have at least ``steps`` optimizer steps, all the same number.

    The epochs of a member stay, and with them its validations and its learning rate; each has as many steps as it takes. Early
    stopping is off.

    Args:
        suite: definition.
        steps: steps of a training.
        members: names of those to change; by default all.

    Raises:
        InputError: for fewer steps than a member has epochs.
    """
    variants = []
    for variant in suite.variants:
        if members is not None and variant.name not in members:
            variants.append(variant)
            continue
        epochs = _settings(suite, variant)["epochs"]
        if not isinstance(epochs, int) or steps < epochs:
            raise InputError(f"steps={steps}: must be at least the epochs of member {variant.name}, {epochs}")
        overrides = {"steps_per_epoch": math.ceil(steps / epochs), "patience": None}
        variants.append(replace(variant, training_overrides={**variant.training_overrides, **overrides}))
    return replace(suite, variants=tuple(variants))


def until_plateau(suite: Suite, steps: int | None = None, members: Collection[str] | None = None) -> Suite:
    """Suite whose trainings end by the early stopping of ``train.yaml``, which is the paper's, equal for all members.

    Args:
        suite: definition.
        steps: most steps of a training; by default those of ``train.yaml``.
        members: names of those to change; by default all.

    Raises:
        InputError: for a member whose learning rate follows the progress of a training of known length, or too few steps.
    """
    base = load_config(CONFIGS / "train.yaml")
    values = {name: base[name] for name in STOPPING}
    if steps is not None:
        values["epochs"] = math.ceil(steps / values["steps_per_epoch"])
        least = values["warmup_epochs"] + values["patience"]
        if values["epochs"] < least:
            raise InputError(f"steps={steps}: early stopping needs at least {least * values['steps_per_epoch']}")
    variants = []
    for variant in suite.variants:
        if members is not None and variant.name not in members:
            variants.append(variant)
            continue
        if FOLLOWS_PROGRESS in json.dumps(_settings(suite, variant)["train"], default=str):
            raise InputError(
                f"until={PLATEAU}: the learning rate of member {variant.name} follows the progress of a training of known length; "
                "use --steps or --minutes"
            )
        variants.append(replace(variant, training_overrides={**variant.training_overrides, **values}))
    return replace(suite, variants=tuple(variants))


def with_length(
    suite: Suite, members: Collection[str], steps: int | None, until: str | None, minutes: float | None = None
) -> Suite:
    """Suite with the length that the options of ``run`` name; as it is without one.

    Raises:
        InputError: for a value out of range, or options that exclude each other.
    """
    given: Mapping[str, object] = {"steps": steps, "until": until}
    named = [f"--{name}" for name, value in given.items() if value is not None]
    if minutes is not None and named:
        raise InputError(f"--minutes and {named[0]} exclude each other: the time ends a training, or its steps do")
    if until not in (None, PLATEAU):
        raise InputError(f"until={until!r}: must be {PLATEAU}")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"steps={steps!r}: must be a whole number of at least 1")
    if until == PLATEAU:
        return until_plateau(suite, steps, members)
    return suite if steps is None else by_steps(suite, steps, members)
