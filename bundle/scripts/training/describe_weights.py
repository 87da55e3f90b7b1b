# SPDX-License-Identifier: Apache-2.0
"""Description of a file of weights: printed, or added to a file of an earlier version."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from ..core.config_package import localise
from ..core.deprecations import migrate_config
from ..core.errors import InputError, first_line
from ..core.paths import BUNDLE
from ..networks.weights_description import with_description
from .checkpoint_files import write_checkpoint
from .describe_run import describe_config
from .described_config import description_in
from .weights import flat_state, load_weights, read_weights

CONFIGS = BUNDLE / "configs"


def show(path: str) -> str:
    """Print the description that a file of weights carries, as JSON.

    Args:
        path: file of weights (.pt), or an exported model (.ts, .onnx, .xml).

    Raises:
        InputError: for a file that is missing, unreadable, or without a description.
    """
    file = Path(path)
    description = description_in(file) if file.is_file() else read_weights(file)[1]
    if description is None:
        raise InputError(f"{path}: has no description, as the weights of versions up to 0.8; add one with `weights describe`")
    return description.text()


def training_config(overlays: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """Merged config of a training.

    Args:
        overlays: files, or names below ``configs/``, that are merged into ``train.yaml``.
        values: values by id.

    Raises:
        InputError: for an overlay that does not exist or cannot be read.
    """
    merged = ConfigParser(config={})
    for name in ["train.yaml", *overlays]:
        file = next((p for p in (Path(name), CONFIGS / name) if p.is_file()), None)
        if file is None:
            raise InputError(f"{name}: no such config; must be a file, or a name below {CONFIGS}")
        try:
            content = migrate_config(ConfigParser.load_config_file(str(file)), str(file))
        except Exception as error:  # of the YAML reader
            raise InputError(f"{file}: cannot be read as a config ({first_line(error)[:120]})") from None
        for key, value in localise(content).items():
            merge_kv(merged, key, value)
    merged.update({"bundle_root": str(BUNDLE), "device": "cpu", **values})
    return dict(merged.get())


def describe(
    path: str,
    *,
    out: str,
    config: str | Sequence[str] | None = None,
    spacing: Sequence[float] | None = None,
    neighbour_mm: float | None = None,
    version: str | None = None,
    trained: str | None = None,
) -> None:
    """Write a copy of a file of weights with a description. The weights are unchanged.

    The description follows from train.yaml with the overlays of the training. The weights must fit its network.

    Args:
        path: file of weights (.pt), with or without a description.
        out: file to write; it may be PATH itself.
        config: overlay that the weights were trained with, or a list of them, such as vertebrae.yaml.
        spacing: voxel size of the training in mm, where it differs from that of the configs.
        neighbour_mm: distance between neighbouring slices in mm; 7.5 for 2.5D weights of version 0.7.
        version: version of the bundle that trained; the present one by default.
        trained: date of the training, such as 2026-11-26; empty by default.

    Raises:
        InputError: for a file or config that cannot be read, weights of another network, or a value out of range.
    """
    state, _ = read_weights(path)
    overlays = [config] if isinstance(config, str) else list(config or [])
    values = {k: v for k, v in (("spacing", spacing), ("neighbour_mm", neighbour_mm)) if v is not None}
    content = training_config(overlays, values)
    load_weights(ConfigParser(dict(content)).get_parsed_content("network_def"), path, exact=True)
    try:
        described = describe_config(content)
        described = dataclasses.replace(described, version=version or described.version, trained=trained or "")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be described ({first_line(error)[:160]}); fix the option or the overlay") from None
    target = Path(out)
    write_checkpoint(target, with_description(state, described.text()))
    written = flat_state(torch.load(target, map_location="cpu", weights_only=True))
    assert all(torch.equal(v, written[k]) for k, v in state.items())
    print(f"{target}: {described.network['_target_']} with {', '.join(described.outputs)}, {described.neighbours} neighbours, "
          f"spacing {' x '.join(f'{v:g}' for v in described.spacing)} mm")  # fmt: skip
