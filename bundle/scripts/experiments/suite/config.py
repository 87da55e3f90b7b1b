# SPDX-License-Identifier: Apache-2.0
"""Merged config of a run: merging, hashing, reading and writing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ...core.config_diff import differences, training_relevant
from ...core.config_overrides import override_problems
from ...core.deprecations import migrate_config
from ...core.errors import InputError
from ...core.files import atomic_write


def merge_configs(files: Sequence[str], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Merge configs, then overrides by id, as ``monai.bundle run`` does; ``InputError`` for an unknown id or another type."""
    names = ", ".join(Path(f).name for f in files)
    parser = ConfigParser()
    try:
        parser.read_config(list(files))
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise InputError(f"{source}: {names} cannot be merged ({error}); an overlay may only change ids that exist") from None
    content, values = migrate_config(parser.get(), source), migrate_config(overrides, source)
    texts = {k: v if isinstance(v, str) else repr(v) for k, v in values.items()}
    if problems := override_problems(texts, content, names):
        raise InputError("\n".join(f"{source}: {p}" for p in problems))
    parser.set(content)
    parser.update(values)
    return parser.get()


def config_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the part of a config that determines the weights."""
    return hashlib.sha256(json.dumps(training_relevant(content), sort_keys=True).encode()).hexdigest()


def config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Ids in which two merged configs differ, with both values."""
    return differences(training_relevant(before), training_relevant(now))


def write_config(path: Path, content: Mapping[str, Any], comment: str) -> None:
    """Write a merged config as YAML behind a line of comment."""
    with atomic_write(path) as temporary:
        ConfigParser.export_config_file(json.loads(json.dumps(content)), str(temporary), fmt="yaml", sort_keys=False)
        temporary.write_text(f"# {comment}\n{temporary.read_text(encoding='utf-8')}", encoding="utf-8")


def load_config(path: Path, migrate: bool = True) -> dict[str, Any]:
    """Read the merged config of a run; names of version 0.5 are replaced unless ``migrate`` is False."""
    parser = ConfigParser()
    parser.read_config(str(path))
    content = dict(parser.get())
    return migrate_config(content, str(path), quiet=True) if migrate else content
