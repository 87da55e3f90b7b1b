# SPDX-License-Identifier: Apache-2.0
"""The inference config with its overlays, wherever the package is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from ..core.config_package import localise
from ..core.config_values import refuse_values
from ..core.deprecations import migrate_config
from ..core.overlay_file import find_overlay, load_overlay
from ..core.paths import BUNDLE, CONFIGS
from ..training.described_config import DescribedConfig, common_description, read_base

BASE = "inference.yaml"


def read_config(overlays: Sequence[str] | str | None, values: Mapping[str, Any]) -> ConfigParser:
    """Merge ``configs/inference.yaml`` with overlays, values and the description of the checkpoint.

    Overlays and values take precedence over the description, see ``training.described_config``. Names of version 0.5 are renamed
    with a warning.

    Args:
        overlays: files, or names below ``configs/``.
        values: values by id; None keeps that of the config.

    Returns:
        MONAI's parser.

    Raises:
        InputError: for an overlay that does not exist, or values that the weights do not fit.
    """
    names = [overlays] if isinstance(overlays, str) else list(overlays or [])
    merged = ConfigParser(config=read_base([BASE]))
    keys: list[str] = []
    for file in [find_overlay(name) for name in names]:
        content = localise(load_overlay(file, merged.get()))
        keys += content
        for key, value in content.items():
            merge_kv(merged, key, value)
    given = localise(migrate_config({k: v for k, v in values.items() if v is not None}))
    refuse_values(given)
    merged.update({"bundle_root": str(BUNDLE), **given})
    config = dict(merged.get())
    found = common_description(ConfigParser(dict(config)).get_parsed_content("checkpoint"))
    if found is not None:
        ids = {key.lstrip("+").replace("#", "::") for key in [*keys, *given]}
        config = DescribedConfig(config, read_base([BASE]), ids).merge(*found)
    parser = ConfigParser()
    parser.read_config(config)
    parser.read_meta(str(CONFIGS / "metadata.json"))
    return parser
