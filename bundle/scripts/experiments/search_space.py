# SPDX-License-Identifier: Apache-2.0
"""Search spaces: YAML files that say which ids of a config are searched, and in which range."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config_overrides import override_problems
from ..core.errors import InputError
from ..core.paths import SUITES
from .config import digest, merged
from .search_parameter import NOTHING, Parameter, read_parameter
from .suite import (
    SETTING_KEYS,
    Member,
    Suite,
    _check_keys,
    _paths,
    find,
    read_yaml,
)

if TYPE_CHECKING:
    import optuna

SPACE_KEYS = {
    "title", "configs", "metric", "direction", "trials", "retries", "member", "fixed", "parameters", "sampler", "pruner",
}  # fmt: skip


@dataclass(frozen=True)
class Space:
    """A search: what is varied, what is fixed, how it is judged.

    Attributes:
        name: of the file.
        title: of the report.
        configs: configs of every trial.
        metric: column of ``history.csv``.
        direction: maximize or minimize.
        trials: how many, when the command line does not say.
        retries: how often a trial whose worker was killed is begun again.
        overrides: ids and values of every trial, below those that are searched.
        parameters: what is searched.
        sampler: name and arguments.
        pruner: name and arguments.
        suite: what makes the data.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    metric: str
    direction: str
    trials: int
    retries: int
    overrides: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    suite: Suite

    def config(self, values: Mapping[str, Any], who: str) -> dict[str, Any]:
        """Merged config of a trial.

        Raises:
            InputError: when it cannot be merged.
        """
        # The outer id first: "loss" would wipe out a "loss::weight" that was set before it.
        wanted = sorted({**self.overrides, **values}.items(), key=lambda item: item[0].count("::"))
        return merged(self.configs, dict(wanted), who)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Value of every searched id in a trial."""
        return {p.name: p.suggest(trial) for p in self.parameters}

    def values(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Value of every searched id for what the study keeps of a trial."""
        return {p.name: p.value(kept[p.name]) for p in self.parameters if p.name in kept}

    def first(self) -> dict[str, Any]:
        """What the configs have, as far as it lies in the space: the first trial."""
        content, found = self.config({}, self.name), {}
        for parameter in self.parameters:
            kept = parameter.kept(_get(content, parameter.name))
            kept = parameter.default if kept is NOTHING else kept
            if kept is not NOTHING:
                found[parameter.name] = kept
        return found

    def facts(self) -> dict[str, str]:
        """What all workers of a study must agree on."""
        parameters = {
            p.name: {**p.__dict__, "default": None, "values": list(p.values.items())} for p in self.parameters
        }
        return {
            "parameters": json.dumps(parameters, sort_keys=True, default=str),
            "metric": f"{self.metric}, {self.direction}",
            "configs and fixed values": digest(self.config({}, self.name)),
        }


def _get(node: Any, name: str) -> Any:
    for part in name.split("::"):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return NOTHING
    return node


def _setting(name: str | None, member: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overrides of a setting and the phantoms to make."""
    if name is None:
        return {}, {}
    file = find(name, SUITES / "settings", "setting")
    content = read_yaml(file)
    _check_keys(content, SETTING_KEYS, str(file))
    sized = dict(content.get("members") or {})
    return {**(content.get("overrides") or {}), **(sized.get(member) or {})}, dict(content.get("phantom") or {})


def _whole(content: Mapping, key: str, standard: int, least: int, source: Path) -> int:
    value = content.get(key, standard)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{source}: {key}={value!r}; give a whole number of at least {least}")
    return value


def load_space(name: str, setting: str | None = None) -> Space:
    """Read a search space and check it against its configs.

    Args:
        name: of a space in ``configs/experiments/search``, or path of a YAML file.
        setting: name of a setting in ``configs/experiments/settings``, or path: sizes, and the phantoms to make.

    Raises:
        InputError: when a file, key, id or value is unknown or wrong.
    """
    source = find(name, SUITES / "search", "search space")
    content = read_yaml(source)
    _check_keys(content, SPACE_KEYS, str(source))
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise InputError(
            f"{source}: names no parameters; give ids with their kind, such as learning_rate: {{kind: float, ...}}"
        )
    rows = tuple(read_parameter(n, c, f"{source}, parameter {n}") for n, c in parameters.items())
    direction = content.get("direction", "maximize")
    if direction not in ("maximize", "minimize"):
        raise InputError(f"{source}: direction={direction!r}; give maximize or minimize")
    for key in ("fixed", "sampler", "pruner"):
        if not isinstance(content.get(key) or {}, dict):
            raise InputError(f"{source}: {key}={content[key]!r}; give a mapping")
    member, fixed = str(content.get("member", "msffnet")), dict(content.get("fixed") or {})
    names = [p.name for p in rows]
    for one in names:
        for other in [*names, *fixed]:
            if (
                (one == other and one in fixed)
                or other.startswith(f"{one}::")
                or (other in fixed and one.startswith(f"{other}::"))
            ):
                raise InputError(f"{source}: {one} is searched and {other} is set beside it; leave one of them out")
    overrides, phantom = _setting(setting, member)
    configs = _paths(content.get("configs", ["configs/train.yaml"]), source, str(source))
    merged_now = merged(configs, {**overrides, **fixed}, f"{source}, fixed")
    files = ", ".join(Path(c).name for c in configs)
    for row in rows:
        for value in row.ends:
            text = value if isinstance(value, str) else repr(value)
            for problem in override_problems({row.name: text}, merged_now, files):
                raise InputError(f"{source}: {problem.removeprefix('--')}")
    title = str(content.get("title", source.stem))
    return Space(
        name=source.stem,
        title=title,
        configs=configs,
        metric=str(content.get("metric", "val_mean_dice")),
        direction=direction,
        trials=_whole(content, "trials", 40, 1, source),
        retries=_whole(content, "retries", 3, 0, source),
        overrides={**overrides, **fixed},
        parameters=rows,
        sampler=dict(content.get("sampler") or {"name": "TPESampler", "seed": 0}),
        pruner=dict(content.get("pruner") or {"name": "NopPruner"}),
        suite=Suite(source.stem, title, configs, (), {}, (0,), None, member, {}, (Member(member, title),), phantom),
    )


def nearest(name: object, known: list[str]) -> str:
    """Remedy for an unknown name."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
