# SPDX-License-Identifier: Apache-2.0
"""Ranges of the values of a config by id, for command lines, overlays and the components that take them: one line, no traceback."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Rule:
    """Test of a value, and the words for what it must be."""

    test: Check
    words: str


def _is_number(value: object, whole: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value) and (not whole or float(value).is_integer())
    except OverflowError:  # a whole number of more than 308 digits
        return False


def _number(words: str, low: float, high: float, whole: bool = False, none: bool = False, between: bool = False) -> Rule:
    """Rule of a finite number from ``low`` to ``high``; ``between``: without these two; ``none``: or None."""

    def test(value: object) -> bool:
        if value is None:
            return none
        if not _is_number(value, whole):
            return False
        number = float(value)  # type: ignore[arg-type]
        return low < number < high if between else low <= number <= high

    return Rule(test, words)


def _numbers(words: str, counts: tuple[int, ...], each: Check, none: bool = False, rising: bool = False) -> Rule:
    """Rule of a list of numbers, each of which passes a test."""

    def test(value: object) -> bool:
        if value is None:
            return none
        if not isinstance(value, (list, tuple)) or len(value) not in counts:
            return False
        return all(_is_number(v) and each(v) for v in value) and not (rising and value[1] <= value[0])

    return Rule(test, words)


def _axes(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(axes, (list, tuple)) and all(_is_number(a, whole=True) for a in axes) for axes in value
    )


MAX_WINDOW, MAX_COUNT, MAX_MM, MAX_CORTEX_MM = 4096, 2**31, 1000.0, 10.0  # voxels, of anything that is counted, mm
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 100.0
PROBABILITY = "a probability above 0 and below 1"
SWITCH = Rule(lambda value: value in (True, False) and isinstance(value, (bool, int)), "True or False")
SWITCHES = ("check_hu", "fill_holes", "statistics_only", "save_probabilities", "dicom_seg", "preview", "overwrite")
RULES: dict[str, Rule] = {
    "threshold": _number(PROBABILITY, 0, 1, between=True),
    "coarse_threshold": _number(PROBABILITY, 0, 1, between=True),
    "min_volume_ml": _number("a volume in ml, 0 or more", 0, 1e5),
    "min_width_mm": _number("a distance in mm, or 0 for any width", 0, MAX_MM),
    "concurrent_scans": _number("a whole number from 1 to 64", 1, 64, whole=True),
    "largest": _number("1 or more, or None for all ('$None' on the command line)", 1, MAX_COUNT, whole=True, none=True),
    "hu_window": _numbers("two values in HU, the second above the first", (2,), lambda v: abs(v) < 1e6, rising=True),
    "outside_hu": _number("a value in HU", -1e6, 1e6),
    "neighbours": _number("0 or more, slices on each side", 0, 64, whole=True),
    "neighbour_mm": _number("above 0 mm, from one channel to the next", -MAX_MM, MAX_MM),  # unused without neighbours
    "neighbour_step": _number("1 or more, slices from one channel to the next", 1, MAX_MM, whole=True),
    "sw_batch_size": _number("a number of windows of at least 1", 1, 65536, whole=True),
    "patch_size": _numbers(
        "two or three numbers of voxels, each at least 16", (2, 3), lambda v: float(v).is_integer() and 1 <= v <= MAX_WINDOW
    ),
    "spacing": _numbers(
        f"three distances in mm, each from {MIN_SPACING_MM} to {MAX_SPACING_MM:g}, or -1 for that of the scan", (3,),
        lambda v: v < 0 or MIN_SPACING_MM <= v <= MAX_SPACING_MM,
    ),
    "overlap": _number("a fraction of at least 0 and below 1", 0, 0.99),
    "flips": Rule(_axes, "a list of lists of axes, such as [[0]]"),
    "coarse_mm": _number("a distance in mm, or 0 for every slice", 0, MAX_MM),
    "cortex_mm": _number("a distance in mm, or 0 for the masks of the network", 0, MAX_CORTEX_MM),
    "consistency_mm": _numbers(
        "three distances in mm, right-left, anterior-posterior, inferior-superior; configs/inference/slicewise.yaml switches the "
        "consistency off", (3,), lambda v: 0 <= v < MAX_MM, none=True,
    ),
    "consistency_fraction": _number("a fraction above 0 and below 1", 0, 1, between=True),
    "calibration": _numbers("[slope, intercept] with a slope above 0; [1, 0] changes nothing", (2,), lambda v: True),
    "batch_size": _number("a number of slices of at least 1", 1, 65536, whole=True),
    "slices_per_volume": _number("a number of slices of at least 1", 1, 65536, whole=True),
    "epochs": _number("a number of epochs of at least 1", 1, MAX_COUNT, whole=True),
    "steps_per_epoch": _number("1 or more, or None ('$None' on the command line)", 1, MAX_COUNT, whole=True, none=True),
    "val_interval": _number("a number of epochs of at least 1", 1, MAX_COUNT, whole=True),
    "num_workers": _number("a number of processes of at least 0", 0, 4096, whole=True),
    "learning_rate": _number("above 0", 0, math.inf, between=True),
    "cache_rate": _number("a fraction from 0 to 1", 0, 1),
    **dict.fromkeys(SWITCHES, SWITCH),
}  # fmt: skip


def value_problem(key: str, value: object) -> str | None:
    """Words for what the value of an id must be, None where it is; expressions, references and other ids are let through."""
    rule = RULES.get(key)
    if rule is None or isinstance(value, Mapping) or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
        return None
    return None if rule.test(value) else f"must be {rule.words}"


def refuse_values(values: Mapping[str, object]) -> None:
    """Refuse values of a command line that are out of range.

    Args:
        values: values by id; None is that of the config.

    Raises:
        InputError: one line with the id, its value and the remedy.
    """
    for key, value in values.items():
        if value is not None and (words := value_problem(str(key), value)):
            raise InputError(f"{key}={value!r}: {words}")


def require_values(values: Mapping[str, object]) -> None:
    """Check arguments of a component by the ids of the config.

    Raises:
        ValueError: one line with the id, its value and the remedy.
    """
    for key, value in values.items():
        if key in RULES and not RULES[key].test(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise ValueError(f"{key}={shown!r}: must be {RULES[key].words}")
