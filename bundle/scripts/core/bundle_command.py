# SPDX-License-Identifier: Apache-2.0
"""Checks of a command line of ``python -m monai.bundle run``, whose mistakes MONAI answers with a traceback or accepts."""

from __future__ import annotations

import ast
import difflib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config_overrides import FLAG, parse_overrides
from .errors import InputError, first_line

BASE = ("imports", "initialize")  # ids that a complete config has and an overlay has not
TRACKERS = ("mlflow",)
FORMATS = (".yaml", ".yml", ".json")
LAST = "multi_gpu_train.yaml"
SIMULATED = (
    "each replaces the transforms of the other; make a set of simulated fractures by `data simulate` and leave out simulate.yaml"
)
CONFLICTS = (  # an overlay, another behind it, and the remedy
    ("simulate.yaml", "vertebra_loss.yaml", SIMULATED),
    ("vertebra_loss.yaml", "simulate.yaml", SIMULATED),
    (
        "finetune.yaml",
        "shipped.yaml",
        "it replaces optimizer, learning rate and frozen parts; write finetune.yaml behind shipped.yaml",
    ),
)
OVERLAY = re.compile(r"overlay\s+of\s+#?\s*([\w./]+\.yaml)", re.IGNORECASE)


def check_running_command() -> None:
    """Check the running command where it is ``python -m monai.bundle``; elsewhere nothing.

    Raises:
        InputError: see ``check_bundle_command``.
    """
    if Path(sys.argv[0]).parent.name == "bundle":
        check_bundle_command(sys.argv[1:])


def check_bundle_command(words: Sequence[str]) -> None:
    """Check configs, their order, the workflow and the tracker of a command; values of ids are checked later.

    Args:
        words: arguments of ``python -m monai.bundle``; other commands than ``run`` are not checked.

    Raises:
        InputError: one line with the mistake and the remedy.
    """
    if not words or words[0] != "run":
        return
    options = parse_overrides(words[1:])
    files = _files(options.get("config_file", ""))
    if not files:
        return
    contents = [_content(file) for file in files]
    _check_order(files, contents)
    positional = words[1] if len(words) > 1 and not FLAG.match(words[1]) else None
    _check_workflow(positional or options.get("run_id") or "run", files, contents)
    tracker = options.get("tracking", "None")
    if tracker not in ("None", "", *TRACKERS) and not Path(tracker).is_file() and tracker[:1] != "{":
        raise InputError(f"--tracking {tracker}: must be {' or '.join(TRACKERS)}; TensorBoard is always written without it")


def _files(text: str) -> list[Path]:
    """Config files of the option ``--config_file``: one path, or a list of them."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
        if text.strip()[:1] in ("[", "("):
            raise InputError(
                f"--config_file {text}: cannot be read as a list; write \"['configs/train.yaml', 'configs/finetune.yaml']\""
            ) from None
    return [Path(str(file)) for file in (value if isinstance(value, (list, tuple)) else [value]) if file]


def _content(file: Path) -> Mapping[str, Any]:
    """Ids of a config file, read without MONAI, whose import takes many seconds and is repeated by the command itself."""
    import yaml

    if not file.is_file():
        others = sorted(str(f) for f in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        close = difflib.get_close_matches(str(file), others, n=1)
        hint = f"did you mean {close[0]}?" if close else "`spine-fracture path` prints the folder that has configs/train.yaml"
        raise InputError(f"--config_file {file}: no such file; {hint}")
    try:
        if file.suffix.lower() not in FORMATS:
            raise ValueError(f"its name ends in {file.suffix!r}")
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
    except Exception as error:  # of the parser of YAML or JSON, or a name that is neither
        raise InputError(f"--config_file {file}: cannot be read ({first_line(error)}); must be YAML or JSON") from None
    if not isinstance(content, Mapping):
        raise InputError(f"--config_file {file}: must be a mapping of ids to values")
    return content


def _check_order(files: Sequence[Path], contents: Sequence[Mapping[str, Any]]) -> None:
    bases = [any(name in content for name in BASE) for content in contents]
    if not any(bases):
        first = OVERLAY.search(files[0].read_text(encoding="utf-8", errors="replace"))
        base = files[0].with_name(Path(first[1]).name) if first else Path("configs/train.yaml")
        if not base.is_file() and (files[0].parent.parent / base.name).is_file():
            base = files[0].parent.parent / base.name
        complete = [str(base), *map(str, files)]
        raise InputError(
            f'--config_file {files[0]}: is an overlay, which completes nothing alone; write --config_file "{complete}"'
        )
    number = bases.index(True)
    if number:
        ordered = [str(files[number]), *(str(f) for i, f in enumerate(files) if i != number)]
        raise InputError(
            f"--config_file: {files[number]} must be the first file, as it replaces what {files[0]} sets; write "
            f'--config_file "{ordered}"'
        )
    names = [file.name for file in files]
    for former, latter, remedy in CONFLICTS:
        if former in names and latter in names[names.index(former) + 1 :]:
            raise InputError(f"--config_file: {latter} behind {former}: {remedy}")
    if LAST in names[:-1]:
        raise InputError(f"--config_file: {files[names.index(LAST)]} must be the last file, as it changes what the others set")


def _check_workflow(run_id: str, files: Sequence[Path], contents: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an id to run that is none, or a section: MONAI would construct its parts and end without an error."""
    merged: dict[str, Any] = {}
    for content in contents:
        merged |= {key.lstrip("+"): value for key, value in content.items()}
    value = merged.get(run_id)
    if value is not None and (not isinstance(value, Mapping) or "_target_" in value):
        return
    reserved = ("initialize", "finalize", "imports")
    workflows = [k for k, v in merged.items() if isinstance(v, list) and v and k not in reserved and _runs(v)]
    close = difflib.get_close_matches(run_id, workflows, n=1, cutoff=0.5)
    hint = f"did you mean: run {close[0]}" if close else f"must be one of: {', '.join(workflows) or 'none there'}"
    shown = ", ".join(file.name for file in files)
    what = "is a section, by which nothing is run" if isinstance(value, Mapping) else "is not there"
    raise InputError(f"run {run_id}: `{run_id}` {what} ({shown}); {hint}")


def _runs(steps: Sequence[Any]) -> bool:
    """True for a list of references and expressions, which is what a workflow is."""
    return all(isinstance(step, str) and step[:1] in ("@", "$", "%") for step in steps)
