# SPDX-License-Identifier: Apache-2.0
"""Part of a merged config that determines the weights of a run, and the differences between two configs."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

# Ids that may differ between two runs that are the same.
PATH_KEYS = (
    "dataset_dir", "datalist", "ckpt_dir", "output_dir", "bundle_root", "resume", "num_workers", "device",
    "tensorboard", "mlflow", "tracking_uri", "experiment_name", "run_name", "run_dirs", "save_execute_config", "is_not_rank0",
)  # fmt: skip


def training_relevant(content: Mapping[str, Any], besides: Collection[str] = ()) -> dict[str, str]:
    """Flat view of a merged config without paths: value by id, as JSON.

    Args:
        content: merged config.
        besides: further ids of the top level that are left out.
    """
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

    walk({k: v for k, v in content.items() if k not in (*PATH_KEYS, "_meta_", *besides)}, "")
    return flat


def differences(before: Mapping[str, str], now: Mapping[str, str], most: int = 5) -> list[str]:
    """Ids in which two flat views differ, with both values; at most ``most`` of them and the number of the rest."""
    ids = [k for k in dict.fromkeys([*before, *now]) if before.get(k) != now.get(k)]
    lines = [f"{k}: {before.get(k, 'absent')} and {now.get(k, 'absent')}" for k in ids[:most]]
    return [*lines, f"and {len(ids) - most} more"] if len(ids) > most else lines


def running_parser() -> ConfigParser | None:
    """Parser of the config whose resolution called this function; None when no config did.

    A component of a config receives its own arguments alone, and a program may run a config without any command line. The parser
    that resolves it stands further up the stack.
    """
    from monai.bundle import ConfigParser

    frame = sys._getframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back  # type: ignore[assignment]
    return None


def running_config() -> dict[str, Any]:
    """Merged config whose resolution called this function, overrides included; empty when no config did."""
    parser = running_parser()
    return dict(parser.config) if parser is not None else {}  # type: ignore[call-overload]
