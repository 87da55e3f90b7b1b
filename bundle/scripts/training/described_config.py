# SPDX-License-Identifier: Apache-2.0
"""Network and input of a config from the description of its checkpoint, so that no overlay has to match the training.

A value that the user gives takes precedence with one line in the log, except for the network itself, where it is refused: the
weights fit no other. Files without a description, those of versions up to 0.8, change nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from ..core.config_diff import running_parser
from ..core.config_overrides import given_ids
from ..core.config_package import localise
from ..core.errors import InputError
from ..core.paths import BUNDLE
from ..networks.exported_description import READERS, exported_description
from ..networks.outputs import NUM_CLASSES
from ..networks.weights_description import SLICES_FIRST, WeightsDescription, network_class, network_config, to_slices_first
from .describe_run import AXES, axcodes_of, plain_value
from .weights import read_weights

logger = logging.getLogger(__name__)
CONFIGS = BUNDLE / "configs"
INPUT = ("spacing", "hu_window", "outside_hu", "patch_size", "neighbours", "neighbour_mm", "check_hu")
CHOICES = ("min_volume_ml", "min_width_mm")  # of post-processing: another value needs no line
OUTPUT_ARGUMENTS = ("out_channels", "auxiliary_outputs")  # weights are matched to them by ``match_outputs``
FREE_ARGUMENTS = (*OUTPUT_ARGUMENTS, "dropout", "vertebra_output")
WIDENED_ARGUMENTS = ("in_channels", "decoder_channels")  # initial weights are adapted by ``wider_weights``
VOLUMES = {"inference": "spatial_3d/inference.yaml", "training": "spatial_3d/train.yaml"}
CHANNELS = "$2 * @neighbours + 1"


def checkpoint_files(checkpoint: object) -> Iterator[Path]:
    """Files of a checkpoint, an ensemble (list), or one checkpoint per plane (dictionary): weights and exported models."""
    if isinstance(checkpoint, Mapping):
        checkpoint = list(checkpoint.values())
    if isinstance(checkpoint, (list, tuple)):
        for item in checkpoint:
            yield from checkpoint_files(item)
    elif isinstance(checkpoint, (str, Path)) and Path(checkpoint).is_file():
        yield Path(checkpoint)


def description_in(file: Path) -> WeightsDescription | None:
    """Description in a file of weights or an exported model.

    Raises:
        InputError: for weights that cannot be read, or a damaged description.
    """
    return exported_description(file) if file.suffix.lower() in READERS else read_weights(file)[1]


def common_description(checkpoint: object) -> tuple[WeightsDescription, Path] | None:
    """Description of a checkpoint with its file; of several files that of the first, which the others must match.

    Raises:
        InputError: for a file that cannot be read, or members of an ensemble with another network or input.
    """
    first: tuple[WeightsDescription, Path] | None = None
    planes = checkpoint if isinstance(checkpoint, Mapping) else {}
    plane_of = {file: plane for plane, item in planes.items() for file in checkpoint_files(item)}
    names = ("network", "spacing", "hu_window", "outside_hu", "patch_size", "neighbours", "neighbour_mm")
    for file in checkpoint_files(checkpoint):
        description = description_in(file)
        if description is None:
            continue
        if description.spatial_dims == 2 and plane_of.get(file, description.plane) != description.plane:
            raise InputError(
                f"{file}: was trained on {description.plane} slices; write it as {description.plane}, not {plane_of[file]}"
            )
        if first is None:
            first = description, file
            continue
        for name in names if planes else (*names, "plane"):
            one, other = getattr(first[0], name), getattr(description, name)
            if one != other:
                raise InputError(f"{file}: {name}={other}, and {first[1]} has {one}; networks of an ensemble must have the same")
    return first


class DescribedConfig:
    """Merge of a description into a config.

    Args:
        config: merged config, overrides included; not changed.
        base: config without the user's overlays and overrides.
        given: ids that the user gave, besides those that differ from the base.
        kind: "inference" for ``inference.yaml``, "training" for ``train.yaml`` and its overlays.
        training: whether the weights are only the start of a training, which may change inputs.
    """

    def __init__(
        self, config: Mapping[str, Any], base: Mapping[str, Any], given: Collection[str] = (), kind: str = "inference",
        training: bool = False,
    ) -> None:  # fmt: skip
        self.config, self.base, self.given, self.kind, self.training = dict(config), base, set(given), kind, training
        self.parser = ConfigParser(dict(config))

    def _is_given(self, name: str) -> bool:
        return name in self.given or self.config.get(name) != self.base.get(name)

    def _value(self, name: str) -> Any:
        return plain_value(self.parser.get_parsed_content(name))

    def merge(self, description: WeightsDescription, file: Path) -> dict[str, Any]:
        """Config with the described network and input.

        Raises:
            InputError: for a network that the user gives and the weights do not fit.
        """
        merged = dict(self.config)
        network = self._network(description, file)
        described: dict[str, Any] = {name: getattr(description, name) for name in (*INPUT, *CHOICES)}
        described["auxiliary_outputs"] = description.outputs[NUM_CLASSES:]
        if self.kind == "training":  # along the axes of its volumes
            own = self.config.get("resample") != self.base.get("resample")
            axes = axcodes_of(self.config) if own else SLICES_FIRST[description.plane]
            described["spacing"] = to_slices_first(description.spacing, axes) if axes in AXES else list(description.spacing)
        if self.kind == "inference" and description.spatial_dims == 2:
            described["planes"] = [description.plane]
        if description.spatial_dims == 3:
            self._merge_volumes(merged)
        for name, value in described.items():
            if name not in merged:
                continue
            if not self._is_given(name):
                merged[name] = value
            elif name not in (*CHOICES, "auxiliary_outputs") and (now := self._value(name)) != value:
                self._contradicted(name, now, value, file)
        if self.kind == "training" and self.config.get("resample") == self.base.get("resample"):
            merged["resample"] = [
                {**s, "axcodes": SLICES_FIRST[description.plane]} if "axcodes" in s else s for s in merged["resample"]
            ]
        merged["network_def"] = network
        return merged

    def _contradicted(self, name: str, now: object, described: object, file: Path) -> None:
        if name == "neighbours" and not self.training:
            raise InputError(f"neighbours={now}: {file} was trained with {described}; leave the option or overlay out")
        logger.warning("%s=%s is used, as given; %s was trained with %s", name, now, file, described)

    def _network(self, description: WeightsDescription, file: Path) -> dict[str, Any]:
        """Config of the network: that of the description, with the outputs and the dropout that the user gives."""
        raw, base = self.config["network_def"], self.base.get("network_def", {})
        given = {k: v for k, v in raw.items() if base.get(k) != v or f"network_def::{k}" in self.given}
        given = {k: v for k, v in given.items() if not k.startswith("_") or k == "_target_"}
        stored = description.network
        target = given.pop("_target_", None)
        if target is not None and not _same_class(str(target), str(stored["_target_"])):
            raise InputError(_refusal("network_def::_target_", target, stored["_target_"], file))
        for name in [k for k in given if k not in FREE_ARGUMENTS]:
            value, trained = self._value(f"network_def::{name}"), stored.get(name, _default(stored, name))
            if value != trained and not (name in WIDENED_ARGUMENTS and self.training):
                raise InputError(_refusal(f"network_def::{name}", value, trained, file))
        known = target is not None and network_class(str(stored["_target_"])) is None
        network = {**stored, "_target_": target} if known else network_config(description, file)
        if network.get("in_channels") == 2 * description.neighbours + 1:
            network["in_channels"] = CHANNELS
        if "auxiliary_outputs" in network:
            network["auxiliary_outputs"] = "@auxiliary_outputs"
        kept = (*FREE_ARGUMENTS, "decoder_channels") if self.training else FREE_ARGUMENTS
        return network | {k: v for k, v in given.items() if k in kept}

    def _merge_volumes(self, merged: dict[str, Any]) -> None:
        """Merge the overlay of 3D patches below the values that the user gives; the network and its window are described."""
        overlay = localise(ConfigParser.load_config_file(str(CONFIGS / VOLUMES[self.kind])))
        now, before, target = ConfigParser(dict(self.config)), ConfigParser(dict(self.base)), ConfigParser(merged)
        for key, value in overlay.items():
            given = key in self.given or key not in now or key not in before or now[key] != before[key]
            if not key.startswith("network_def") and not given:
                merge_kv(target, key, value)
        merged.update(target.get())


def _same_class(one: str, other: str) -> bool:
    return one == other or (network_class(one) is not None and network_class(one) is network_class(other))


def _default(network: Mapping[str, Any], name: str) -> Any:
    """Default of an argument that a described network does not name; None for an argument that its class does not have."""
    cls = network_class(str(network["_target_"]))
    parameter = inspect.signature(cls).parameters.get(name) if cls is not None else None
    return plain_value(parameter.default) if parameter is not None else None


def _refusal(name: str, now: object, described: object, file: Path) -> str:
    return f"{name}={now}: {file} was trained with {described}; leave the option or overlay out"


def merge_running_description(checkpoint: str = "checkpoint", files: Collection[str] = (), training: bool = False) -> None:
    """Merge the description of a checkpoint into the config whose resolution called this function.

    An expression of ``initialize``, as the command line and overlays are merged by MONAI before.

    Args:
        checkpoint: id of the checkpoint.
        files: configs of the bundle that the user's overlays and overrides are compared with.
        training: whether the weights are only the start of a training.
    """
    parser = running_parser()
    if parser is None:
        return
    config = dict(parser.config)  # type: ignore[call-overload]
    path = ConfigParser(dict(config)).get_parsed_content(checkpoint)
    found = common_description(path)
    if found is None:
        return
    kind = "inference" if "inference.yaml" in files else "training"
    merged = DescribedConfig(config, read_base(files), given_ids(files), kind, training).merge(*found)
    if merged != config:
        parser.set(merged)


def read_base(files: Collection[str]) -> dict[str, Any]:
    """Merged configs of the bundle, without overlays and overrides of the user."""
    merged = ConfigParser(config={})
    for name in files:
        for key, value in localise(ConfigParser.load_config_file(str(CONFIGS / name))).items():
            merge_kv(merged, key, value)
    return dict(merged.get())
