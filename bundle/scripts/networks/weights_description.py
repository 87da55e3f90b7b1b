# SPDX-License-Identifier: Apache-2.0
"""Description that a file of weights carries: network, input, outputs, recipe, as JSON text beside the tensors.

A file of weights is a flat state dict, as MONAI's commands, handlers and servers require. The text is the attribute
``description`` of that ``OrderedDict``: ``torch.load(file, weights_only=True).description``. Programs that do not read it load the
weights as before.

The text is data and never code: the class of the network is one of this package or of a short list of MONAI's, and every value is a
plain number, word or list.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from torch import nn

from ..core.errors import InputError, first_line
from ..core.paths import PACKAGE
from .outputs import OUTPUTS

ATTRIBUTE = "description"
FORMAT = 2  # 1: the spacing of slices of other planes has the order of the training, slices first
PLANES = ("sagittal", "coronal", "axial")
SLICES_FIRST = {"sagittal": "RAS", "coronal": "ARS", "axial": "SRA"}  # axes of a volume whose first one is normal to the slices
OWN_CLASS = re.compile(r"scripts\.networks(\.[a-z_0-9]+)*\.[A-Z]\w*")
# Networks of MONAI whose construction reads and loads nothing.
MONAI_CLASSES = (
    "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "FlexibleUNet", "HighResNet", "SegResNet", "SwinUNETR", "UNet",
    "UNETR", "VNet",
)  # fmt: skip
DAMAGED = "describe the file again with `spine-fracture weights describe`"


@dataclass(frozen=True)
class WeightsDescription:
    """Network and input of a file of weights.

    Args:
        network: class (``_target_``) and arguments of the network, plain values.
        spacing: voxel size in mm along R, A, S, or -1 for that of the scan.
        hu_window: HU that are scaled to 0 and 1.
        outside_hu: HU of what lies outside a scan; None: the lower end of ``hu_window``, as of versions up to 0.17.
        patch_size: window, two or three numbers of voxels.
        neighbours: slices on each side that are channels.
        neighbour_mm: distance between them in mm.
        outputs: names of the output channels.
        plane: plane of the slices of a 2D network.
        check_hu: whether values are HU.
        min_volume_ml: smallest finding in ml.
        min_width_mm: smallest width of a finding in mm.
        recipe: settings of the training, for readers.
        version: version of the bundle that trained.
        trained: date of the training, ISO 8601.

    Raises:
        ValueError: for a value that no network of this bundle can have, with its name.
    """

    network: dict[str, Any]
    spacing: list[float]
    hu_window: list[float]
    patch_size: list[int]
    outside_hu: float | None = None
    neighbours: int = 0
    neighbour_mm: float = 6.0
    outputs: list[str] = field(default_factory=list)
    plane: str = PLANES[0]
    check_hu: bool = True
    min_volume_ml: float = 2.0
    min_width_mm: float = 12.0
    recipe: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    trained: str = ""

    def __post_init__(self) -> None:
        target = self.network.get("_target_") if isinstance(self.network, Mapping) else None
        checks = {
            "network": isinstance(target, str) and _is_plain(self.network),
            "spacing": _numbers(self.spacing, 3) and all(v > 0 or v == -1 for v in self.spacing),
            "hu_window": _numbers(self.hu_window, 2) and self.hu_window[0] < self.hu_window[1],
            "outside_hu": self.outside_hu is None or _numbers([self.outside_hu], 1),
            "patch_size": _numbers(self.patch_size, 2, 3) and all(isinstance(v, int) and v > 0 for v in self.patch_size),
            "neighbours": isinstance(self.neighbours, int) and not isinstance(self.neighbours, bool) and self.neighbours >= 0,
            "neighbour_mm": _numbers([self.neighbour_mm], 1) and self.neighbour_mm > 0,
            "outputs": list(self.outputs) == list(OUTPUTS[: len(self.outputs)]),
            "plane": self.plane in PLANES,
            "check_hu": isinstance(self.check_hu, bool),
            "min_volume_ml": _numbers([self.min_volume_ml], 1) and self.min_volume_ml >= 0,
            "min_width_mm": _numbers([self.min_width_mm], 1) and self.min_width_mm >= 0,
            "recipe": isinstance(self.recipe, Mapping),
            "version": isinstance(self.version, str),
            "trained": isinstance(self.trained, str),
        }
        for name, valid in checks.items():
            if not valid:
                raise ValueError(f"{name}={getattr(self, name)!r} is no valid value")
        if self.outside_hu is None:
            object.__setattr__(self, "outside_hu", self.hu_window[0])

    @property
    def spatial_dims(self) -> int:
        """Two for slices, three for volumes."""
        return len(self.patch_size)

    def text(self) -> str:
        """JSON text of the description."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False)

    @classmethod
    def from_text(cls, text: str) -> WeightsDescription:
        """Read a JSON text; entries of later versions are left out.

        Raises:
            ValueError: for a text that is no description.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ValueError("it has no format")
        known = {f.name for f in fields(cls)}
        try:
            described = cls(**{k: v for k, v in content.items() if k in known})
            if content["format"] > 1:
                return described
            return replace(described, spacing=from_slices_first(described.spacing, described.plane))
        except TypeError as error:  # an entry is missing
            raise ValueError(str(error).removeprefix("WeightsDescription.__init__() ")) from None


def from_slices_first(spacing: Sequence[float], plane: str) -> list[float]:
    """Spacing along R, A, S of one along the axes of a training on slices of a plane."""
    return [spacing[SLICES_FIRST[plane].index(axis)] for axis in SLICES_FIRST["sagittal"]]


def to_slices_first(spacing: Sequence[float], axes: str) -> list[float]:
    """Spacing along the axes of a training, such as "SRA", of one along R, A, S."""
    return [spacing[SLICES_FIRST["sagittal"].index(axis)] for axis in axes]


def _numbers(values: object, *lengths: int) -> bool:
    """True for a list of finite numbers of one of the lengths."""
    return (
        isinstance(values, (list, tuple))
        and len(values) in lengths
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    )


def _is_plain(value: object) -> bool:
    """True for JSON values without references, expressions and components of a config but the network's own class."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) and not _has_component(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) and not _has_component(v) for v in value)
    if isinstance(value, str):
        return value[:1] not in ("$", "@", "%")
    return value is None or isinstance(value, (bool, int, float))


def _has_component(value: object) -> bool:
    return isinstance(value, Mapping) and any(str(k).startswith("_") for k in value)


def canonical_class(target: str) -> str:
    """Name of a network's class as descriptions store it: ``scripts.…``, or that of MONAI alone."""
    prefix = PACKAGE.removesuffix("scripts")
    name = target.removeprefix("monai.networks.nets.")
    return name.removeprefix(prefix) if prefix and name.startswith(f"{prefix}scripts.") else name


def network_class(target: str) -> type[nn.Module] | None:
    """Class that a description may name; None for any other."""
    name = canonical_class(target)
    if name in MONAI_CLASSES:
        found = locate(f"monai.networks.nets.{name}")
    elif OWN_CLASS.fullmatch(name):
        found = locate(f"{PACKAGE}{name.removeprefix('scripts')}")
    else:
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def network_config(description: WeightsDescription, file: Path | str) -> dict[str, Any]:
    """Config of the described network, with the name of its class as it is imported here.

    Raises:
        InputError: for a class that is neither of the bundle nor of the listed ones of MONAI, or arguments that it does not accept.
    """
    arguments = dict(description.network)
    name = canonical_class(str(arguments.pop("_target_")))
    cls = network_class(name)
    if cls is None:
        raise InputError(
            f"{file}: was trained with the network {name}, which is not part of the bundle; add the overlay of its training"
        )
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # without memory, whatever the widths
            cls(**arguments)
    except Exception as error:
        raise InputError(f"{file}: its description fits no {name} ({first_line(error)[:120]}); {DAMAGED}") from None
    return {"_target_": f"{PACKAGE}{name.removeprefix('scripts')}" if name not in MONAI_CLASSES else name, **arguments}


def with_description(state: Mapping[str, torch.Tensor], text: str | None) -> OrderedDict[str, torch.Tensor]:
    """Copy of a flat state dict that ``torch.save`` stores with the text; None leaves it without."""
    copy: OrderedDict[str, torch.Tensor] = OrderedDict(state)
    for name, value in getattr(state, "__dict__", {}).items():  # versions of the modules
        setattr(copy, name, value)
    if text is not None:
        setattr(copy, ATTRIBUTE, text)
    return copy


def description_of(state: object, file: Path | str) -> WeightsDescription | None:
    """Description of a loaded file of weights; None where it has none.

    Raises:
        InputError: for a description that is damaged.
    """
    text = getattr(state, ATTRIBUTE, None)
    if text is None and isinstance(state, Mapping):
        text = state.get(ATTRIBUTE) if isinstance(state.get(ATTRIBUTE), str) else getattr(state.get("model"), ATTRIBUTE, None)
    return None if text is None else parse_description(text, file)


def parse_description(text: str, file: Path | str) -> WeightsDescription:
    """Read the text of a file.

    Raises:
        InputError: for a text that is no description, with the name of the file.
    """
    try:
        return WeightsDescription.from_text(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: its description is damaged ({str(error)[:120]}); {DAMAGED}") from None
