# SPDX-License-Identifier: Apache-2.0
"""Definition of a suite: a YAML file of the bundle runs that belong to one table."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from monai.utils.misc import CheckKeyDuplicatesYamlLoader

from ...core.errors import InputError
from ...core.paths import BUNDLE, SUITES
from ...core.suggestions import suggest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TRAINING_KEYS = ("training_configs", "training_overrides")
SUITE_KEYS = ("title", "configs", "evaluate", "overrides", *TRAINING_KEYS, "seeds", "folds", "reference", "ticks", "members")
VARIANT_KEYS = ("label", "configs", "evaluate", "overrides", *TRAINING_KEYS, "needs", "paper")
SETTING_KEYS = ("phantom", "overrides", "members", "share_cache")


@dataclass(frozen=True)
class Variant:
    """One row of a table: a list of configs and overrides, trained once per seed and fold."""

    name: str  # name of its folders; variants of equal name in two suites share them
    label: str  # name in tables
    configs: tuple[str, ...] = ()  # overlays of training, evaluation and inference, merged after those of the suite
    training_configs: tuple[str, ...] = ()  # overlays of the training alone, such as another trainer
    overrides: Mapping[str, Any] = field(default_factory=dict)  # values by id, set last
    training_overrides: Mapping[str, Any] = field(default_factory=dict)  # values by id of the training alone
    evaluate: tuple[str, ...] = ()  # overlays of the evaluation alone, after those of the suite
    needs: str | None = None  # command of another program, without which the variant is left out
    paper: Mapping[str, float] = field(default_factory=dict)  # figures printed in the paper, in per cent, by metric


@dataclass(frozen=True)
class Run:
    """One training with its evaluation."""

    variant: Variant
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.variant.name}_seed{self.seed}" + ("" if self.fold is None else f"_fold{self.fold}")


@dataclass(frozen=True)
class Suite:
    """Variants that are trained, evaluated and compared alike."""

    name: str  # name of the file
    title: str  # caption of its tables
    configs: tuple[str, ...]  # configs of every training
    evaluate: tuple[str, ...]  # overlays that turn them into an evaluation
    overrides: Mapping[str, Any]  # values by id of every variant
    training_configs: tuple[str, ...]  # overlays of every training alone, before those of the variant
    training_overrides: Mapping[str, Any]  # values by id of every training alone
    seeds: tuple[int, ...]
    folds: int | None  # number of folds, or None for the split of the datalist
    reference: str  # variant that the others are tested against
    ticks: Mapping[str, str]  # id of a boolean by column, for a table with ticks
    variants: tuple[Variant, ...]  # rows in their order
    phantom: Mapping[str, Any] = field(default_factory=dict)  # arguments of ``scripts.data phantom`` where no data set is named
    share_cache: bool = False  # trainings keep their preprocessed scans in one folder of the results

    def first_run(self, variant: Variant) -> Run:
        """Run of a variant with the first seed, and the first fold where there are folds."""
        return Run(variant, self.seeds[0], 0 if self.folds else None)

    def runs(self, variants: Collection[str] | None = None) -> list[Run]:
        """Every training, seed by seed, so that an interrupted suite has whole seeds; of the named variants or of all."""
        folds = range(self.folds) if self.folds else [None]
        rows = [v for v in self.variants if variants is None or v.name in variants]
        return [Run(variant, seed, fold) for seed in self.seeds for fold in folds for variant in rows]


def read_yaml(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """Read a YAML file that holds a mapping with some of ``keys``, by default with any; ``InputError`` for any other content."""
    try:
        with path.open(encoding="utf-8") as file, warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of a duplicate key
            content = yaml.load(file, CheckKeyDuplicatesYamlLoader)
    except (yaml.YAMLError, ValueError, UserWarning) as error:
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
    paths = {str(v): [p for p in (BUNDLE / str(v), file.resolve().parent / str(v)) if p.is_file()] for v in values}
    for value, existing in paths.items():
        if not existing:
            raise InputError(f"{source}: {value}: no such config, neither in {BUNDLE} nor in the folder of {file.name}")
    return tuple(str(paths[str(v)][0]) for v in values)


def load_setting(name: str | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
    """Overrides, overrides by variant, and arguments of the phantoms of a setting; empty for None."""
    if name is None:
        return {}, {}, {}
    content = read_yaml(find_file(name, SUITES / "settings", "setting"), SETTING_KEYS)
    overrides, variants, phantom = (dict(content.get(k) or {}) for k in ("overrides", "members", "phantom"))
    return overrides, {k: dict(v or {}) for k, v in variants.items()}, phantom


def shares_cache(name: str | None) -> bool:
    """True for a setting whose trainings share the preprocessed scans; ``InputError`` when the value is not true or false."""
    path = None if name is None else find_file(name, SUITES / "settings", "setting")
    value = read_yaml(path, SETTING_KEYS).get("share_cache", False) if path else False
    if not isinstance(value, bool):
        raise InputError(f"{path}: share_cache={value!r}: must be true or false")
    return value


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
        training_overrides=dict(content.get("training_overrides") or {}),
        evaluate=config_paths(content.get("evaluate", []), file, source),
        needs=content.get("needs"),
        paper=dict(content.get("paper") or {}),
    )


def load_suite(name: str, setting: str | None = None, seeds: Collection[int] | None = None) -> Suite:
    """Read a suite and a setting by name or path, with ``seeds`` in place of the file's; ``InputError`` when one is wrong."""
    file = find_file(name, SUITES, "suite")
    content, source = read_yaml(file, SUITE_KEYS), str(file)
    members = content.get("members")
    if not isinstance(members, dict) or not members:
        raise InputError(f"{source}: names no members")
    variants = [_variant(n, m, file) for n, m in members.items()]
    for first, second in combinations(members, 2):
        if first.lower() == second.lower():
            raise InputError(f"{source}: members {first} and {second} would share a folder; rename one")
    reference = content.get("reference", variants[0].name)
    if reference not in members:
        raise InputError(f"{source}: reference={reference!r} is no member; must be one of {', '.join(members)}")
    chosen = content.get("seeds", [0]) if seeds is None else list(seeds)
    if not isinstance(chosen, list) or not chosen or any(not isinstance(s, int) or s < 0 for s in chosen):
        raise InputError(f"{source}: seeds={chosen!r}: must be a list of whole numbers such as [0, 1, 2]")
    folds = content.get("folds")
    if folds is not None and (not isinstance(folds, int) or folds < 2):
        raise InputError(f"{source}: folds={folds!r}: must be a whole number of at least 2")
    if folds is not None and (others := [v.name for v in variants if v.needs]):
        raise InputError(
            f"{source}: folds={folds}: members {', '.join(others)} need another program, which has no ensemble; remove them"
        )
    overrides, by_variant, phantom = load_setting(setting)
    return Suite(
        name=file.stem,
        title=str(content.get("title", file.stem)),
        configs=config_paths(content.get("configs", ["configs/train.yaml"]), file, source),
        evaluate=config_paths(content.get("evaluate", ["configs/evaluate.yaml"]), file, source),
        overrides={**(content.get("overrides") or {}), **overrides},
        training_configs=config_paths(content.get("training_configs", []), file, source),
        training_overrides={**(content.get("training_overrides") or {}), **overrides},  # a setting has the last word
        seeds=tuple(dict.fromkeys(chosen)),
        folds=folds,
        reference=str(reference),
        ticks=dict(content.get("ticks") or {}),
        variants=tuple(replace(v, overrides={**v.overrides, **by_variant.get(v.name, {})}) for v in variants),
        phantom=phantom,
        share_cache=shares_cache(setting),
    )
