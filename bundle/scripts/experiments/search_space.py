# SPDX-License-Identifier: Apache-2.0
"""Search space: a YAML file of config ids with their ranges, which are Optuna's distributions."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.bundle import ConfigParser

from ..core.config_diff import PATH_KEYS
from ..core.config_overrides import override_problems
from ..core.errors import InputError
from ..core.paths import SUITES
from ..core.suggestions import suggest
from .suite.config import config_hash, merge_configs
from .suite.definition import check_keys, config_paths, find_file, load_setting, read_yaml

if TYPE_CHECKING:
    import optuna

DEFAULTS = {
    "title": "", "configs": ["configs/train.yaml"], "metric": "val_mean_dice", "direction": "maximize", "trials": 40, "retries": 3,
    "member": "msffnet", "fixed": {}, "parameters": {}, "sampler": {"name": "TPESampler", "seed": 0},
    "pruner": {"name": "NopPruner"},
}  # fmt: skip
RANGE_KEYS = ("kind", "low", "high", "log", "step", "default")
KINDS = {"float": RANGE_KEYS, "int": RANGE_KEYS, "choice": ("kind", "values", "default")}
DISTRIBUTIONS = {"float": "FloatDistribution", "int": "IntDistribution", "choice": "CategoricalDistribution"}
ABSENT = object()


def require_optuna() -> Any:
    """Import Optuna; ``InputError`` when it is not installed."""
    try:
        import optuna
    except ImportError:
        raise InputError("search needs the package optuna, which is not installed; pip install '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


@dataclass(frozen=True)
class Parameter:
    """One id that is searched."""

    name: str  # id in the config
    distribution: Any  # Optuna's
    values: Mapping[Any, Any]  # value in the config by choice in the study, which stores texts and numbers; empty for a range
    default: Any = ABSENT  # value in the study of the first trial when the config has none

    def suggest(self, trial: optuna.Trial) -> Any:
        """Value in the config for a trial."""
        d = self.distribution
        if self.values:
            return self.values[trial.suggest_categorical(self.name, d.choices)]
        draw = trial.suggest_int if isinstance(d.low, int) else trial.suggest_float
        return draw(self.name, d.low, d.high, step=d.step, log=d.log)

    def stored(self, value: object) -> Any:
        """Value in the study for one of the config; ``ABSENT`` outside the space."""
        if self.values:
            text = json.dumps(value, sort_keys=True, default=str)  # 1 is not True
            same = (k for k, v in self.values.items() if text in (json.dumps(x, sort_keys=True) for x in (k, v)))
            return next(same, ABSENT)
        with suppress(ValueError):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                require_optuna().create_trial(value=0.0, params={self.name: value}, distributions={self.name: self.distribution})
                return value
        return ABSENT


def _parameter(name: object, content: object, source: str) -> Parameter:
    kind = content.get("kind") if isinstance(content, dict) else content
    if not isinstance(name, str) or not isinstance(content, dict) or kind not in KINDS:
        raise InputError(f"{source}: kind={kind!r}: must be a mapping with kind: {', '.join(KINDS)}")
    check_keys(content, KINDS[kind], source)
    if name.split("::")[0] in PATH_KEYS:
        raise InputError(f"{source}: is set by the search itself; leave it out")
    arguments, values = {k: v for k, v in content.items() if k not in ("kind", "default")}, {}
    for key in ("low", "high", *({"step"} & set(content))) if kind != "choice" else ():
        value = content.get(key)
        if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
            hint = "; YAML reads 1e-4 as text, write 1.0e-4" if isinstance(value, str) else ""
            raise InputError(f"{source}: {key}={value!r}: must be a {'whole ' * (kind == 'int')}number{hint}")
    if kind == "choice":
        choices = content.get("values")
        if not isinstance(choices, (list, dict)) or not choices:
            raise InputError(f"{source}: values={choices!r}: must be a list such as [8, 16], or names with values")
        names = [v if isinstance(v, (bool, int, float, str, type(None))) else json.dumps(v) for v in choices]
        if duplicates := [n for k, n in enumerate(names) if n in names[:k]]:  # 1, 1.0 and True are equal in a study
            raise InputError(f"{source}: duplicate {duplicates[0]!r} in values; leave one out")
        values = dict(zip(names, choices.values() if isinstance(choices, dict) else choices, strict=True))
        arguments = {"choices": names}
    try:
        distribution = getattr(require_optuna().distributions, DISTRIBUTIONS[kind])
        parameter = Parameter(name, distribution(**arguments), values)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    default = parameter.stored(content["default"]) if "default" in content else ABSENT
    if "default" in content and default is ABSENT:
        raise InputError(f"{source}: default={content['default']!r} is outside the space; must be one of its values")
    return replace(parameter, default=default)


def make_part(kind: str, given: Mapping[str, Any], source: str) -> Any:
    """Make one of Optuna's samplers or pruners; ``InputError`` for an unknown name or argument."""
    module, name = getattr(require_optuna(), f"{kind}s"), str(given.get("name"))
    classes = {n: getattr(module, n) for n in module.__all__ if n.endswith(kind.title()) and not n.startswith("Base")}
    if name not in classes:
        raise InputError(f"{source}: {kind} name={name!r}: there is no such {kind} in Optuna; {suggest(name, classes)}")
    arguments, parameters = {k: v for k, v in given.items() if k != "name"}, list(inspect.signature(classes[name]).parameters)
    for key, value in arguments.items():
        if key not in parameters:
            raise InputError(f"{source}: {kind} {name} has no argument {key}; {suggest(key, parameters)}")
        if isinstance(value, dict) and "name" in value:  # a PatientPruner wraps another pruner
            arguments[key] = make_part(kind, value, source)
    try:
        return classes[name](**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: {kind} {name}: {error}") from None


@dataclass(frozen=True)
class Space:
    """Search: content of its file with defaults, configs and overrides of every trial, parameters, phantoms of the setting."""

    name: str
    content: Mapping[str, Any]
    configs: tuple[str, ...]
    overrides: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    phantom: Mapping[str, Any]
    parts: Mapping[str, Any]  # sampler and pruner

    def config(self, values: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Merged config of a trial; ``InputError`` when it cannot be merged."""
        # Outer ids first: "loss" would replace a "loss::weight" that was set before it.
        ordered = sorted({**self.overrides, **values}.items(), key=lambda item: item[0].count("::"))
        return merge_configs(self.configs, dict(ordered), source)

    def values(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Values in the config for the values that the study stores of a trial."""
        chosen = [p for p in self.parameters if p.name in stored]
        return {p.name: p.values[stored[p.name]] if p.values else stored[p.name] for p in chosen}

    def overlay(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Values of a trial with the fixed ones that refer to a searched id, without which another config may not fit them."""
        values = self.values(stored)
        names = "|".join(re.escape(name) for name in values)
        fixed = {k: v for k, v in (self.content["fixed"] or {}).items() if isinstance(v, str)}
        return {**values, **{k: v for k, v in fixed.items() if names and re.search(rf"@({names})(?![\w:])", v)}}

    def first(self) -> dict[str, Any]:
        """First trial: the values of the configs, as far as they lie in the space."""
        content = ConfigParser(self.config({}, self.name))
        values = {p.name: (p.stored(content.get(p.name, ABSENT)), p.default) for p in self.parameters}
        first = {name: default if value is ABSENT else value for name, (value, default) in values.items()}
        return {name: value for name, value in first.items() if value is not ABSENT}

    def settings(self) -> dict[str, str]:
        """Settings that all workers of a study share."""
        parameters = {p.name: (repr(p.distribution), list(p.values.items())) for p in self.parameters}
        return {
            "parameters": json.dumps(parameters, sort_keys=True, default=str),
            "metric": f"{self.content['metric']}, {self.content['direction']}",
            "configs and fixed values": config_hash(self.config({}, self.name)),
        }


def load_space(name: str, setting: str | None = None) -> Space:
    """Read a search space and a setting by name or path; ``InputError`` when a file, key, id or value is unknown or wrong."""
    file = find_file(name, SUITES / "search", "search space")
    content, source = {**DEFAULTS, **read_yaml(file, tuple(DEFAULTS))}, str(file)
    rules = {k: (isinstance(content[k] or {}, dict), "a mapping") for k in ("fixed", "sampler", "pruner", "parameters")}
    for key, least in (("trials", 1), ("retries", 0)):
        number = isinstance(content[key], int) and not isinstance(content[key], bool) and content[key] >= least
        rules[key] = number, f"a whole number of at least {least}"
    rules["direction"] = content["direction"] in ("maximize", "minimize"), "maximize or minimize"
    for key, (fits, rule) in rules.items():
        if not fits:
            raise InputError(f"{source}: {key}={content[key]!r}: must be {rule}")
    if not content["parameters"]:
        raise InputError(f"{source}: names no parameters; must be ids such as learning_rate: {{kind: float, ...}}")
    parameters = tuple(_parameter(n, c, f"{source}, parameter {n}") for n, c in content["parameters"].items())
    fixed, names = dict(content["fixed"] or {}), [p.name for p in parameters]
    for one, other in product(names, (*names, *fixed)):
        if other.startswith(f"{one}::") or (other in fixed and f"{one}::".startswith(f"{other}::")):
            raise InputError(f"{source}: {one} is searched and {other} is set as well; leave one of them out")
    overrides, by_variant, phantom = load_setting(setting)
    overrides |= {**by_variant.get(str(content["member"]), {}), **fixed}
    configs = config_paths(content["configs"], file, source)
    merged, files = merge_configs(configs, overrides, f"{source}, fixed"), ", ".join(Path(c).name for c in configs)
    for p in parameters:
        for value in p.values.values() if p.values else (p.distribution.low, p.distribution.high):
            text = value if isinstance(value, str) else repr(value)
            for problem in override_problems({p.name: text}, merged, files):
                raise InputError(f"{source}: {problem.removeprefix('--')}")
    parts = {kind: make_part(kind, content[kind], source) for kind in ("sampler", "pruner")}
    return Space(file.stem, content, configs, overrides, parameters, phantom, parts)
