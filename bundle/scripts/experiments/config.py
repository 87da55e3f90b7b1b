# SPDX-License-Identifier: Apache-2.0
"""The merged config of a run: what decides its weights, and what only says where things lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..core.config_diff import differences, training_relevant
from ..core.config_overrides import override_problems
from ..core.errors import InputError
from ..core.files import atomic_write


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


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the weights."""
    return hashlib.sha256(json.dumps(training_relevant(content), sort_keys=True).encode()).hexdigest()


def differing(one: Mapping[str, Any], other: Mapping[str, Any], most: int = 5) -> list[str]:
    """Ids in which two merged configs differ, with both values."""
    return differences(training_relevant(one), training_relevant(other), most)


def write_config(path: Path, content: Mapping[str, Any], comment: str) -> None:
    """Write a merged config as YAML with a first line that says what it is."""
    with atomic_write(path) as temporary:
        ConfigParser.export_config_file(json.loads(json.dumps(content)), str(temporary), fmt="yaml", sort_keys=False)
        text = temporary.read_text(encoding="utf-8")
        temporary.write_text(f"# {comment}\n{text}", encoding="utf-8")


def read_config(path: Path) -> dict[str, Any]:
    """Read what ``write_config`` wrote."""
    parser = ConfigParser()
    parser.read_config(str(path))
    return dict(parser.get())
