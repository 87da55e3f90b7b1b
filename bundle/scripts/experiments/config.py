# SPDX-License-Identifier: Apache-2.0
"""The merged config of a run: what decides its weights, and what only says where things lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..errors import InputError
from ..files import replacing
from ..training.command_line import override_problems

# Ids that may differ between two runs that are the same.
PLACES = (
    "dataset_dir", "datalist", "ckpt_dir", "output_dir", "bundle_root", "resume", "num_workers", "device",
    "tensorboard", "mlflow", "tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0",
)  # fmt: skip


def merged(files: Sequence[str], overrides: Mapping[str, Any], who: str) -> dict[str, Any]:
    """Merge configs and overrides as ``monai.bundle run`` does, without evaluating anything.

    Args:
        files: configs in their order.
        overrides: values by id on top.
        who: run or member, for messages.

    Raises:
        InputError: when a config cannot be merged, or an override names an id that does not exist or has another type.
    """
    parser = ConfigParser()
    try:
        parser.read_config(list(files))
    except (KeyError, ValueError, TypeError, OSError) as error:
        names = ", ".join(Path(f).name for f in files)
        raise InputError(
            f"{who}: {names} cannot be merged ({error}); an overlay may only change ids that exist"
        ) from None
    content = parser.get()
    names = ", ".join(Path(f).name for f in files)
    problems = override_problems(
        {k: v if isinstance(v, str) else repr(v) for k, v in overrides.items()}, content, names
    )
    if problems:
        raise InputError("\n".join(f"{who}: {p}" for p in problems))
    parser.update(dict(overrides))
    return parser.get()


def deciding(content: Mapping[str, Any]) -> dict[str, str]:
    """Flat view of a merged config without places: value by id, as JSON."""
    flat: dict[str, str] = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, Mapping) and node:
            for key, value in node.items():
                walk(value, f"{name}::{key}" if name else str(key))
        elif isinstance(node, list) and any(isinstance(v, (Mapping, list)) for v in node):
            for number, value in enumerate(node):
                walk(value, f"{name}::{number}")
        else:
            flat[name] = json.dumps(node, sort_keys=True, default=str)

    walk({k: v for k, v in content.items() if k not in (*PLACES, "_meta_")}, "")
    return flat


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the weights."""
    return hashlib.sha256(json.dumps(deciding(content), sort_keys=True).encode()).hexdigest()


def differing(one: Mapping[str, Any], other: Mapping[str, Any], most: int = 5) -> list[str]:
    """Ids in which two merged configs differ, with both values."""
    a, b = deciding(one), deciding(other)
    ids = [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
    lines = [f"{k}: {a.get(k, 'absent')} and {b.get(k, 'absent')}" for k in ids[:most]]
    return [*lines, f"and {len(ids) - most} more"] if len(ids) > most else lines


def write_config(path: Path, content: Mapping[str, Any], comment: str) -> None:
    """Write a merged config as YAML with a first line that says what it is."""
    with replacing(path) as temporary:
        ConfigParser.export_config_file(json.loads(json.dumps(content)), str(temporary), fmt="yaml", sort_keys=False)
        text = temporary.read_text(encoding="utf-8")
        temporary.write_text(f"# {comment}\n{text}", encoding="utf-8")


def read_config(path: Path) -> dict[str, Any]:
    """Read what ``write_config`` wrote."""
    parser = ConfigParser()
    parser.read_config(str(path))
    return dict(parser.get())
