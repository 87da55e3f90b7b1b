# SPDX-License-Identifier: Apache-2.0
"""Refuse config overrides that do not exist or have the wrong type. MONAI silently accepts ``--epoch 1``."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import TYPE_CHECKING

from .config_values import value_problem
from .deprecations import IDS
from .errors import InputError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

FLAG = re.compile(r"--|-[A-Za-z]")
# Options of `python -m monai.bundle run` itself.
RUN_OPTIONS = {
    "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file", "workflow_type",
    "properties_path", "workflow_name", "workflow", "output_dir", "tracking_uri", "experiment_name", "run_name",
    "save_execute_config", "help",
}  # fmt: skip
# Those that train.yaml has as well, where MONAI takes values of other types.
RUN_ONLY = {"experiment_name", "run_name", "save_execute_config"}


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Split ``--key value`` and ``--key=value`` arguments into a dictionary, with the spellings that Fire accepts.

    One dash is as good as two, and a hyphen in a key is an underscore; a negative number is a value.
    """
    overrides: dict[str, str] = {}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if not FLAG.match(argument):
            continue
        key, separator, value = argument.lstrip("-").partition("=")
        key = key.replace("-", "_")
        if not separator and position < len(arguments) and not FLAG.match(arguments[position]):
            value = arguments[position]
            position += 1
        elif not separator:
            value = "True"
        overrides[key] = value
    return overrides


def type_problem(key: str, now: object, new: object) -> str | None:
    """Return a line when ``new`` cannot stand where ``now`` stands; expressions and references are let through."""
    if isinstance(new, str) and new[:1] in ("$", "@", "%"):
        return None
    if isinstance(now, str) and now[:1] in ("$", "@", "%"):
        return None
    if isinstance(now, dict) and "_target_" in now:
        return None  # a value in place of the component that computes it, such as `neighbours: 2`
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "True or False"),
        ((int, float), "a number"),
        (list, "a list, such as [1, 2]"),
        (dict, "a dictionary"),
        (str, "a string"),
    ]
    for kind, name in kinds:
        if isinstance(now, kind):
            fits = isinstance(new, kind) or new is None
            if kind == (int, float):
                fits = (isinstance(new, kind) and not isinstance(new, bool)) or new is None
                if isinstance(now, int) and isinstance(new, float) and not new.is_integer() and now > 1:
                    return f"--{key} {new}: must be a whole number, like the config's {now}"
            if kind is str:
                fits = True
            return None if fits else f"--{key} {new!r}: must be {name}, like the config's {now!r}"
    return None


def _arguments(node: dict) -> tuple[list[str], bool]:
    """Names that the ``_target_`` of a component takes besides those in the config, and whether it takes any name."""
    from monai.bundle.config_item import ComponentLocator, ConfigComponent

    try:
        name = ConfigComponent(config=node, id="", locator=ComponentLocator()).resolve_module_name()
        target = locate(name) if isinstance(name, str) else name
        if not callable(target):
            return [], True
        parameters = inspect.signature(target).parameters.values()
    except (ErrorDuringImport, ModuleNotFoundError, TypeError, ValueError):
        return [], True
    return [p.name for p in parameters], any(p.kind == p.VAR_KEYWORD for p in parameters)


def override_problems(overrides: dict[str, str], config: dict, names: str) -> list[str]:
    """Return one line per override that the config does not have or whose type differs.

    Args:
        overrides: values as typed, by id ("a::b" or "a#b").
        config: merged content of the config files.
        names: names of the files, for messages.
    """
    problems = []
    for key, text in overrides.items():
        plain = key.lstrip("+").replace("#", "::")
        if plain in RUN_OPTIONS and (plain not in config or plain in RUN_ONLY):
            continue
        node: object = config
        first, *rest = plain.split("::")
        for part in (IDS.get(first, first), *rest):
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif part == "_disabled_" or (isinstance(node, str) and node[:1] in "@%$"):
                node = "$"
                break
            else:
                choices = list(node) if isinstance(node, dict) else []
                if "_target_" in choices:
                    taken, anything = _arguments(dict(node))  # type: ignore[call-overload]
                    if anything or part in taken:
                        node = "$"
                        break
                    choices = [c for c in [*choices, *taken] if not c.startswith("_")]
                close = difflib.get_close_matches(part, choices, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(map(str, choices[:12])) or 'none'}"
                problems.append(f"--{key} {text}: there is no id {part!r} in {names}; {hint}")
                break
        else:
            problem = type_problem(key, node, _literal(text))
            if problem is None and (words := value_problem(IDS.get(plain, plain), _literal(text))):
                problem = f"--{key} {text}: {words}"
            if problem:
                problems.append(problem)
    return problems


def _dropped(overrides: dict[str, str], parser: ConfigParser) -> list[str]:
    """Lines on ids that are set to None, which MONAI's command line drops, so that the value of the config stays."""
    lines = []
    for key, text in overrides.items():
        plain = key.lstrip("+").replace("#", "::")
        if _literal(text) is None and plain in parser and parser[plain] is not None and plain not in RUN_OPTIONS - RUN_ONLY:
            lines.append(f"--{key} {text}: would be ignored; write --{key} '$None'")
    return lines


def _batch_problems(overrides: dict[str, str], config: dict) -> list[str]:
    """Line on a batch that is no multiple of the slices of a volume, which would be rounded down in silence."""
    batch, slices = (_literal(overrides[k]) if k in overrides else config.get(k) for k in ("batch_size", "slices_per_volume"))
    given = {"batch_size", "slices_per_volume"} & set(overrides)
    if not given or not (isinstance(batch, int) and isinstance(slices, int)) or slices < 1 or batch % slices == 0:
        return []
    return [
        f"--{min(given)} {overrides[min(given)]}: batches of {batch} slices need a multiple of slices_per_volume={slices}; "
        f"write --batch_size {max(batch // slices, 1) * slices}, or also --slices_per_volume {batch if batch < slices else 1}"
    ]


def check_command_line(argv: Sequence[str] | None = None) -> dict[str, str]:
    """Check the overrides of the running ``python -m monai.bundle run`` command; does nothing elsewhere.

    Returns:
        Overrides as typed, by id; empty elsewhere.

    Raises:
        InputError: with one line per problem.
    """
    arguments = list(sys.argv if argv is None else argv)
    if argv is None and Path(arguments[0]).parent.name != "bundle":
        return {}
    overrides = parse_overrides(arguments[1:])
    files = _literal(overrides.get("config_file", ""))
    paths = [str(f) for f in (files if isinstance(files, (list, tuple)) else [files]) if f]
    if not paths:
        return {}
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(paths)
    config = parser.get()
    problems = override_problems(overrides, config, ", ".join(Path(p).name for p in paths))
    dropped = _dropped(overrides, parser)
    keys = {line.partition(" ")[0] for line in dropped}
    problems = [line for line in problems if line.partition(" ")[0] not in keys] + dropped + _batch_problems(overrides, config)
    if problems:
        raise InputError("\n".join(problems))
    return overrides


def given_ids(base: Collection[str] = ()) -> set[str]:
    """Ids that the running ``python -m monai.bundle run`` command sets: its overrides, and the keys of its overlays.

    Args:
        base: configs of the bundle that are no overlays, such as ``train.yaml``.

    Returns:
        Ids with ``::``; empty elsewhere, as in a program that runs a config itself.
    """
    arguments = list(sys.argv)
    if Path(arguments[0]).parent.name != "bundle":
        return set()
    from monai.bundle import ConfigParser

    overrides = parse_overrides(arguments[1:])
    files = _literal(overrides.get("config_file", ""))
    keys = list(overrides)
    for file in (Path(str(f)) for f in (files if isinstance(files, (list, tuple)) else [files]) if f):
        if not (file.name in base and file.parent.name == "configs") and file.is_file():
            keys += list(ConfigParser.load_config_file(str(file)))
    plain = [key.lstrip("+").replace("#", "::").split("::", 1) for key in keys]
    return {"::".join([IDS.get(first, first), *rest]) for first, *rest in plain}
