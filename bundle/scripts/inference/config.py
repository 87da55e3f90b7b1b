# SPDX-License-Identifier: Apache-2.0
"""The inference config with its overlays, wherever the package is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from ..core.config_package import localise
from ..core.deprecations import migrate_config
from ..core.errors import InputError
from ..core.paths import BUNDLE

CONFIGS = BUNDLE / "configs"


def _overlay(name: str) -> Path:
    paths = [Path(name), CONFIGS / name]
    for path in paths:
        if path.is_file():
            return path
    raise InputError(f"{name}: no such config; must be a file, or a name below {CONFIGS}")


def read_config(overlays: Sequence[str] | str | None, values: Mapping[str, Any]) -> ConfigParser:
    """Merge ``configs/inference.yaml`` with overlays and values; names of version 0.5 are renamed with a warning.

    Args:
        overlays: files, or names below ``configs/``.
        values: values by id; None keeps that of the config.

    Returns:
        MONAI's parser.

    Raises:
        InputError: for an overlay that does not exist.
    """
    files = [CONFIGS / "inference.yaml"]
    files += [_overlay(name) for name in ([overlays] if isinstance(overlays, str) else overlays or [])]
    merged = ConfigParser(config={})
    for file in files:
        content = migrate_config(ConfigParser.load_config_file(str(file)), str(file))
        for key, value in localise(content).items():
            merge_kv(merged, key, value)
    parser = ConfigParser()
    parser.read_config(merged.get())
    parser.read_meta(str(CONFIGS / "metadata.json"))
    given = {k: v for k, v in values.items() if v is not None}
    parser.update({"bundle_root": str(BUNDLE), **localise(migrate_config(given))})
    return parser
