# SPDX-License-Identifier: Apache-2.0
"""Description of the weights of a training, from its merged config."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..core.config_diff import running_config
from ..core.errors import InputError, first_line
from ..core.provenance import version
from ..networks.outputs import OUTPUTS
from ..networks.weights_description import SLICES_FIRST, WeightsDescription, canonical_class, from_slices_first

logger = logging.getLogger(__name__)
AXES = {axes: plane for plane, axes in SLICES_FIRST.items()}  # axcodes of `resample`, by which the slices are chosen
INPUT = (
    "spacing", "hu_window", "outside_hu", "patch_size", "neighbours", "neighbour_mm", "check_hu", "min_volume_ml", "min_width_mm",
)  # fmt: skip
RECIPE = ("epochs", "max_minutes", "batch_size", "slices_per_volume", "learning_rate", "patience", "val_interval", "seed")


def plain_value(value: Any) -> Any:
    """Copy in which tuples are lists."""
    if isinstance(value, Mapping):
        return {k: plain_value(v) for k, v in value.items()}
    return [plain_value(v) for v in value] if isinstance(value, (list, tuple)) else value


def describe_config(config: Mapping[str, Any]) -> WeightsDescription:
    """Description of the weights that a training config makes.

    Args:
        config: merged config of a training, overrides included.

    Raises:
        ValueError: for a network or an input that cannot be described, such as an argument that is a class.
    """
    parser = ConfigParser(dict(config))
    arguments = [k for k in config["network_def"] if not k.startswith("_")]
    network = {"_target_": canonical_class(str(config["network_def"]["_target_"]))}
    network |= {k: plain_value(parser.get_parsed_content(f"network_def::{k}")) for k in arguments}
    values = {name: plain_value(parser.get_parsed_content(name)) for name in INPUT if name in config}
    values["patch_size"] = [int(n) for n in values["patch_size"]]
    plane = AXES.get(axcodes_of(config), "sagittal")
    values["spacing"] = from_slices_first(values["spacing"], plane)
    auxiliary = network.get("auxiliary_outputs")
    count = int(network.get("out_channels", 2)) + (len(auxiliary) if isinstance(auxiliary, list) else 0)
    return WeightsDescription(
        network=network,
        outputs=list(OUTPUTS[:count]),
        plane=plane,
        recipe=_recipe(parser, config),
        version=version(),
        trained=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **values,
    )


def axcodes_of(config: Mapping[str, Any]) -> str:
    """Orientation of the volumes, whose first axis the slices are drawn from."""
    steps = config.get("resample")
    named = [s for s in steps if isinstance(s, Mapping) and "axcodes" in s] if isinstance(steps, list) else []
    return str(named[0]["axcodes"]) if named else "RAS"


def _recipe(parser: ConfigParser, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the training for readers; paths by the name of the file alone, as folders may name people."""
    recipe: dict[str, Any] = {}
    for name in RECIPE:
        value = plain_value(parser.get_parsed_content(name)) if name in config else None
        if isinstance(value, (bool, int, float, str)):
            recipe[name] = value
    for name in ("optimizer", "lr_scheduler"):
        if isinstance(config.get(name), Mapping):
            recipe[name] = str(config[name].get("_target_"))
    start = parser.get_parsed_content("init_checkpoint") if "init_checkpoint" in config else None
    if start:
        recipe["init_checkpoint"] = Path(str(start)).name
    for name in ("vertebra_loss", "randomisation", "simulate", "moving_average", "distillation_loss"):
        if name in config:
            recipe[name] = True
    return recipe


def running_description() -> str | None:
    """JSON text that describes the weights of the config whose resolution called this function.

    Returns:
        None outside a config, and with a warning where the network cannot be described in plain values.
    """
    config = running_config()
    if "network_def" not in config or "patch_size" not in config:
        return None
    try:
        return describe_config(config).text()
    except InputError:
        raise
    except Exception as error:  # an argument that is a class, a config of another structure
        logger.warning("the weights are stored without a description (%s); their use needs the configs of this training",
                       first_line(error)[:160])  # fmt: skip
        return None
