# SPDX-License-Identifier: Apache-2.0
"""Definition of a suite: a YAML file of the bundle runs that belong to one table."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ...core.errors import InputError
from ...core.paths import BUNDLE, SUITES
from ...core.suggestions import suggest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SUITE_KEYS = ("title", "configs", "evaluate", "overrides", "seeds", "folds", "reference", "ticks", "members")
VARIANT_KEYS = ("label", "configs", "training_configs", "overrides", "paper")
SETTING_KEYS = ("phantom", "overrides", "members")


@dataclass(frozen=True)
class Variant:
    """One row of a table: a list of configs and overrides, trained once per seed and fold.

    Attributes:
        name: name of its folders; variants of equal name in two suites share them.
        label: name in tables.
        configs: overlays of training, evaluation and inference, merged after those of the suite.
        training_configs: overlays of the training alone, such as another trainer.
        overrides: values by id, set last.
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
    """Variants that are trained, evaluated and compared alike.

    Attributes:
        name: name of the file.
        title: caption of its tables.
        configs: configs of every training.
        evaluate: overlays that turn them into an evaluation.
        overrides: values by id of every variant.
        seeds: every variant is trained once per seed.
        folds: number of folds, or None for the split of the datalist.
        reference: variant that the others are tested against.
        ticks: id of a boolean by column, for a table with ticks.
        variants: rows in their order.
        phantom: arguments of ``scripts.data phantom``, which generates the data where no data set is named.
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
    variants: tuple[Variant, ...]
    phantom: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, variants: Collection[str] | None = None) -> list[Run]:
        """Every training, seed by seed, so that an interrupted suite has whole seeds; of the named variants or of all."""
        folds = range(self.folds) if self.folds else [None]
        rows = [v for v in self.variants if variants is None or v.name in variants]
        return [Run(variant, seed, fold) for seed in self.seeds for fold in folds for variant in rows]


@dataclass(frozen=True)
class Run:
    """One training with its evaluation.

    Attributes:
        variant: network and settings.
        seed: seed of the training.
        fold: number of the fold, or None.
    """

    variant: Variant
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.variant.name}_seed{self.seed}" + ("" if self.fold is None else f"_fold{self.fold}")


class _UniqueKeys(yaml.SafeLoader):
    """YAML with an error for duplicate keys, of which the plain loader takes the last."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict:
    keys = [loader.construct_object(key) for key, _ in node.value]
    duplicates = [k for k in keys if keys.count(k) > 1]
    if duplicates:
        raise InputError(f"{node.start_mark.name}: duplicate key {duplicates[0]!r}; rename or remove one")
    return {loader.construct_object(k): loader.construct_object(v, deep=True) for k, v in node.value}


_UniqueKeys.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Read a YAML file that holds a mapping with some of ``keys``, by default with any.

    Raises:
        InputError: when it is missing, no valid YAML, no mapping, or has a duplicate or unknown key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of names to values")
    if keys:
        check_keys(content, keys, str(path))
    return content


def check_keys(content: Mapping, keys: Collection[str], source: str) -> None:
    """Raise ``InputError`` for a key that is not among ``keys``."""
    for key in content:
        if key not in keys:
            raise InputError(f"{source}: there is no key {key!r}; {suggest(key, keys)}")


def find_file(name: str, folder: Path, kind: str) -> Path:
    """File of a shipped suite, setting or search space by its name, or the file at a path."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        raise InputError(f"{name}: no such {kind}")
    shipped = {p.stem: p for p in sorted(folder.glob("*.yaml"))}
    if name not in shipped:
        raise InputError(f"{name}: there is no such {kind}; {suggest(name, shipped)}, or the path of a YAML file")
    return shipped[name]


def config_paths(values: object, file: Path, source: str) -> tuple[str, ...]:
    """Absolute paths of configs that are written relative to the bundle or to the file that names them."""
    if not isinstance(values, list):
        raise InputError(f"{source}: configs={values!r}: must be a list of files")
    paths = []
    for value in values:
        existing = [p for p in (BUNDLE / str(value), file.resolve().parent / str(value)) if p.is_file()]
        if not existing:
            raise InputError(f"{source}: {value}: no such config, neither in {BUNDLE} nor in the folder of {file.name}")
        paths.append(str(existing[0]))
    return tuple(paths)


def load_setting(name: str | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
    """Overrides, overrides by variant, and arguments of the phantoms of a setting; empty for None."""
    if name is None:
        return {}, {}, {}
    content = read_yaml(find_file(name, SUITES / "settings", "setting"), SETTING_KEYS)
    overrides, variants, phantom = (dict(content.get(k) or {}) for k in ("overrides", "members", "phantom"))
    return overrides, {k: dict(v or {}) for k, v in variants.items()}, phantom


def _variant(name: object, content: object, file: Path) -> Variant:
    source = f"{file}, member {name}"
    content = {} if content is None else content
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{source}: must be a name of letters, digits, '_', '-' and '.'; it names a folder")
    if not isinstance(content, dict):
        raise InputError(f"{source}: must be a mapping with {', '.join(VARIANT_KEYS)}")
    check_keys(content, VARIANT_KEYS, source)
    return Variant(
        name=name,
        label=str(content.get("label", name)),
        configs=config_paths(content.get("configs", []), file, source),
        training_configs=config_paths(content.get("training_configs", []), file, source),
        overrides=dict(content.get("overrides") or {}),
        paper=dict(content.get("paper") or {}),
    )


def load_suite(name: str, setting: str | None = None, seeds: Collection[int] | None = None) -> Suite:
    """Read a suite and a setting by name or path, with ``seeds`` in place of those of the file.

    Raises:
        InputError: when a file, key, member or config is unknown or wrong.
    """
    file = find_file(name, SUITES, "suite")
    content, source = read_yaml(file, SUITE_KEYS), str(file)
    members = content.get("members")
    if not isinstance(members, dict) or not members:
        raise InputError(f"{source}: names no members")
    variants = [_variant(n, m, file) for n, m in members.items()]
    folders: dict[str, str] = {}
    for variant in variants:
        other = folders.setdefault(variant.name.lower(), variant.name)
        if other != variant.name:
            raise InputError(f"{source}: members {other} and {variant.name} would share a folder; rename one")
    reference = content.get("reference", variants[0].name)
    if reference not in members:
        raise InputError(f"{source}: reference={reference!r} is no member; must be one of {', '.join(members)}")
    chosen = content.get("seeds", [0]) if seeds is None else list(seeds)
    if not isinstance(chosen, list) or not chosen or any(not isinstance(s, int) or s < 0 for s in chosen):
        raise InputError(f"{source}: seeds={chosen!r}: must be a list of whole numbers such as [0, 1, 2]")
    folds = content.get("folds")
    if folds is not None and (not isinstance(folds, int) or folds < 2):
        raise InputError(f"{source}: folds={folds!r}: must be a whole number of at least 2")
    overrides, by_variant, phantom = load_setting(setting)
    return Suite(
        name=file.stem,
        title=str(content.get("title", file.stem)),
        configs=config_paths(content.get("configs", ["configs/train.yaml"]), file, source),
        evaluate=config_paths(content.get("evaluate", ["configs/evaluate.yaml"]), file, source),
        overrides={**(content.get("overrides") or {}), **overrides},
        seeds=tuple(dict.fromkeys(chosen)),
        folds=folds,
        reference=str(reference),
        ticks=dict(content.get("ticks") or {}),
        variants=tuple(replace(v, overrides={**v.overrides, **by_variant.get(v.name, {})}) for v in variants),
        phantom=phantom,
    )
