# SPDX-License-Identifier: Apache-2.0
"""Suites: small YAML files that say which bundle runs belong together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import InputError
from ..core.paths import BUNDLE, SUITES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SUITE_KEYS = {"title", "configs", "evaluate", "overrides", "seeds", "folds", "reference", "ticks", "members"}
MEMBER_KEYS = {"label", "configs", "training_configs", "overrides", "paper"}
SETTING_KEYS = {"phantom", "overrides", "members"}


@dataclass(frozen=True)
class Member:
    """One row of a table: a list of configs and overrides, run once per seed or fold.

    Attributes:
        name: of its folders; the same name in two suites is the same member.
        label: as tables print it.
        configs: overlays of training, evaluation and inference, behind those of the suite.
        training_configs: overlays of training only, such as another trainer.
        overrides: ids and values on top.
        paper: figures printed in the paper, in per cent, by metric.
    """

    name: str
    label: str
    configs: tuple[str, ...] = ()
    training_configs: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Members that are trained, evaluated and compared alike.

    Attributes:
        name: of the suite.
        title: line above its tables.
        configs: configs of every training.
        evaluate: overlays that make an evaluation of them.
        overrides: ids and values of every member.
        seeds: a run per member and seed.
        folds: number of folds, or None for the split of the datalist.
        reference: member that the others are tested against.
        ticks: column by id of a boolean, for a table with ticks.
        members: rows in their order.
        phantom: arguments of ``scripts.data phantom`` that make the data when no other are given.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    evaluate: tuple[str, ...]
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]
    folds: int | None
    reference: str
    ticks: Mapping[str, str]
    members: tuple[Member, ...]
    phantom: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training with its evaluation.

    Attributes:
        member: what is run.
        seed: of the training.
        fold: number of the fold, or None.
    """

    member: Member
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.member.name}_seed{self.seed}" + ("" if self.fold is None else f"_fold{self.fold}")


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the plain loader keeps the last."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = [k for k in keys if keys.count(k) > 1]
    if twice:
        raise InputError(f"{node.start_mark.name}: {twice[0]!r} is given twice; give each one name")
    return {loader.construct_object(k): loader.construct_object(v, deep=True) for k, v in node.value}


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: when it is missing, no valid YAML, no mapping, or gives a key twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is no valid YAML ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of names to values")
    return content


def find(name: str, folder: Path, kind: str) -> Path:
    """File of a shipped suite or setting by its name, or the file that a path names.

    Raises:
        InputError: when there is none; the line names what there is.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise InputError(f"{name}: no such {kind}")
    shipped = {p.stem: p for p in sorted(folder.glob("*.yaml"))}
    if name not in shipped:
        close = difflib.get_close_matches(name, shipped, n=1)
        hint = (
            f"did you mean {close[0]}?" if close else f"known: {', '.join(shipped)}, or the path of your own YAML file"
        )
        raise InputError(f"{name}: there is no such {kind}; {hint}")
    return shipped[name]


def _check_keys(content: Mapping, known: set[str], place: str) -> None:
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
            raise InputError(f"{place}: there is no key {key!r}; {hint}")


def _paths(values: object, source: Path, place: str) -> tuple[str, ...]:
    """Absolute paths of configs that are written relative to the bundle or to the file that names them."""
    if not isinstance(values, list):
        raise InputError(f"{place}: configs must be a list of files, not {values!r}")
    found = []
    for value in values:
        choices = [BUNDLE / str(value), source.resolve().parent / str(value)]
        existing = [c for c in choices if c.is_file()]
        if not existing:
            raise InputError(f"{place}: {value}: no such config, neither in {BUNDLE} nor beside {source.name}")
        found.append(str(existing[0]))
    return tuple(found)


def _member(name: object, content: object, source: Path) -> Member:
    place = f"{source}, member {name}"
    content = {} if content is None else content
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{place}: give a name of letters, digits, '_', '-' and '.'; it names a folder")
    if not isinstance(content, dict):
        raise InputError(f"{place}: must be a mapping with {', '.join(sorted(MEMBER_KEYS))}")
    _check_keys(content, MEMBER_KEYS, place)
    return Member(
        name=name,
        label=str(content.get("label", name)),
        configs=_paths(content.get("configs", []), source, place),
        training_configs=_paths(content.get("training_configs", []), source, place),
        overrides=dict(content.get("overrides") or {}),
        paper=dict(content.get("paper") or {}),
    )


def load_suite(name: str, setting: str | None = None) -> Suite:
    """Read a suite.

    Args:
        name: of a suite in ``configs/experiments``, or path of a YAML file.
        setting: name of a setting in ``configs/experiments/settings``, or path: sizes, and the phantoms to make.

    Raises:
        InputError: when a file, key, member or config is unknown or wrong.
    """
    source = find(name, SUITES, "suite")
    content = read_yaml(source)
    _check_keys(content, SUITE_KEYS, str(source))
    members = content.get("members")
    if not isinstance(members, dict) or not members:
        raise InputError(f"{source}: names no members")
    rows = [_member(n, m, source) for n, m in members.items()]
    folded: dict[str, str] = {}
    for row in rows:
        if row.name.lower() in folded:
            raise InputError(
                f"{source}: members {folded[row.name.lower()]} and {row.name} would share a folder; rename one"
            )
        folded[row.name.lower()] = row.name
    reference = content.get("reference", rows[0].name)
    if reference not in members:
        raise InputError(f"{source}: reference={reference!r} is no member; give one of {', '.join(members)}")
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or any(not isinstance(s, int) or s < 0 for s in seeds):
        raise InputError(f"{source}: seeds={seeds!r}; give a list of whole numbers such as [0, 1, 2]")
    folds = content.get("folds")
    if folds is not None and (not isinstance(folds, int) or folds < 2):
        raise InputError(f"{source}: folds={folds!r}; give a number of at least 2")
    overrides, phantom = dict(content.get("overrides") or {}), {}
    if setting is not None:
        file = find(setting, SUITES / "settings", "setting")
        extra = read_yaml(file)
        _check_keys(extra, SETTING_KEYS, str(file))
        phantom = dict(extra.get("phantom") or {})
        overrides |= dict(extra.get("overrides") or {})
        sized = dict(extra.get("members") or {})
        rows = [Member(**{**m.__dict__, "overrides": {**m.overrides, **(sized.get(m.name) or {})}}) for m in rows]
    return Suite(
        name=source.stem,
        title=str(content.get("title", source.stem)),
        configs=_paths(content.get("configs", ["configs/train.yaml"]), source, str(source)),
        evaluate=_paths(content.get("evaluate", ["configs/evaluate.yaml"]), source, str(source)),
        overrides=overrides,
        seeds=tuple(dict.fromkeys(seeds)),
        folds=folds,
        reference=str(reference),
        ticks=dict(content.get("ticks") or {}),
        members=tuple(rows),
        phantom=phantom,
    )


def runs_of(suite: Suite) -> list[Run]:
    """Every training of a suite, seed by seed, so that a suite that is cut off has whole seeds."""
    folds = range(suite.folds) if suite.folds else [None]
    return [Run(member, seed, fold) for seed in suite.seeds for fold in folds for member in suite.members]
