# SPDX-License-Identifier: Apache-2.0
"""One id that is searched: its kind, its range, its values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ..core.config_diff import PATH_KEYS
from ..core.errors import InputError
from .suite import _check_keys

if TYPE_CHECKING:
    import optuna

KINDS = {
    "float": {"kind", "low", "high", "log", "step", "default"},
    "int": {"kind", "low", "high", "log", "step", "default"},
    "choice": {"kind", "values", "default"},
}
NOTHING = object()


@dataclass(frozen=True)
class Parameter:
    """One id that is searched.

    Attributes:
        name: id in the config.
        kind: float, int or choice.
        low: smallest value of a number.
        high: largest value of a number.
        log: whether a number is drawn on a logarithmic scale.
        step: distance of the values of a number.
        values: values of a choice by the text or number that the study keeps for them.
        default: value that is tried first where the config has none.
    """

    name: str
    kind: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    values: Mapping[Any, Any] = field(default_factory=dict)
    default: Any = NOTHING

    def suggest(self, trial: optuna.Trial) -> Any:
        """Value of the config in a trial."""
        if self.kind == "choice":
            return self.values[trial.suggest_categorical(self.name, list(self.values))]
        if self.kind == "int":
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def value(self, kept: Any) -> Any:
        """Value of the config for what the study keeps."""
        return self.values[kept] if self.kind == "choice" else kept

    def kept(self, value: object) -> Any:
        """What the study keeps for a value of the config; ``NOTHING`` when it is outside the space."""
        if self.kind == "choice":
            return next((k for k, v in self.values.items() if _same(v, value) or _same(k, value)), NOTHING)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return NOTHING
        if self.step is not None and not math.isclose(
            round((value - self.low) / self.step) * self.step + self.low, value
        ):
            return NOTHING
        return int(value) if self.kind == "int" else float(value)

    @property
    def ends(self) -> list[Any]:
        """Values whose type is checked against the config."""
        return list(self.values.values()) if self.kind == "choice" else [self.low, self.high]


def _same(one: object, other: object) -> bool:
    """Equality that tells True from 1."""
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def _number(content: Mapping, key: str, kind: str, place: str) -> Any:
    value: Any = content.get(key)
    wanted: tuple[type, ...] = (int,) if kind == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not math.isfinite(float(cast(float, value))):
        hint = "; YAML reads 1e-4 as text, write 1.0e-4" if isinstance(value, str) and "e" in value.lower() else ""
        raise InputError(f"{place}: {key}={value!r}; give {'a whole number' if kind == 'int' else 'a number'}{hint}")
    return value


def _range(name: str, content: Mapping, place: str) -> Parameter:
    kind, log, step = str(content["kind"]), content.get("log", False), None
    low, high = (_number(content, key, kind, place) for key in ("low", "high"))
    if "step" in content:
        step = _number(content, "step", kind, place)
    if not isinstance(log, bool):
        raise InputError(f"{place}: log={log!r}; give true or false")
    if not low < high:
        raise InputError(f"{place}: low={low} is not below high={high}; exchange them, or put the value under fixed")
    if log and (low <= 0 or step is not None):
        what = f"low={low}" if low <= 0 else f"step={step}"
        raise InputError(
            f"{place}: log: true does not go with {what}; give a low above 0 and no step, or leave log out"
        )
    if step is not None and not 0 < step <= high - low:
        raise InputError(f"{place}: step={step}; give a number above 0 and at most high - low = {high - low}")
    return Parameter(name, kind, low, high, log, step)


def _choice(name: str, content: Mapping, place: str) -> Parameter:
    values = content.get("values")
    if not isinstance(values, (list, dict)) or not values:
        raise InputError(f"{place}: values={values!r}; give a list such as [8, 16], or names with values")
    if isinstance(values, dict):
        return Parameter(name, "choice", values={str(k): v for k, v in values.items()})
    # A study keeps numbers and texts; a list or dictionary is kept as JSON.
    kept = [v if v is None or isinstance(v, (bool, int, float, str)) else json.dumps(v) for v in values]
    twice = [k for n, k in enumerate(kept) if k in kept[:n]]  # 1, 1.0 and True are one to the study
    if twice:
        raise InputError(f"{place}: {twice[0]!r} is given twice in values; leave one out")
    return Parameter(name, "choice", values=dict(zip(kept, values, strict=True)))


def read_parameter(name: object, content: object, place: str) -> Parameter:
    """Read one entry of ``parameters``.

    Args:
        name: id in the config.
        content: mapping with its kind and range.
        place: file and parameter, for messages.

    Raises:
        InputError: when a key or value is unknown or wrong.
    """
    if not isinstance(name, str) or not isinstance(content, dict) or content.get("kind") not in KINDS:
        kind = content.get("kind") if isinstance(content, dict) else content
        raise InputError(f"{place}: kind={kind!r}; give a mapping with kind: {', '.join(KINDS)}")
    _check_keys(content, KINDS[content["kind"]], place)
    if name.split("::")[0] in PATH_KEYS:
        raise InputError(f"{place}: is set by the search itself; leave it out")
    made = (_choice if content["kind"] == "choice" else _range)(name, content, place)
    if "default" not in content:
        return made
    kept = made.kept(content["default"])
    if kept is NOTHING:
        raise InputError(
            f"{place}: default={content['default']!r} is outside the space; give one of its values or none"
        )
    return Parameter(**{**made.__dict__, "default": kept})
