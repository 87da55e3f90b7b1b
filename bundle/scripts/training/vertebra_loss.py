# SPDX-License-Identifier: Apache-2.0
"""A second task in training, what is vertebra at all: who knows intact vertebrae can hold a fracture against them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.networks.layers.factories import Conv
from monai.transforms import MapTransform
from torch import nn

from ..errors import InputError
from .parallel import world_size

SACRUM = 26  # VerSe's label; it is not drawn as a vertebra by the phantom either


class MarkIntactd(MapTransform):
    """Give intact vertebrae a value of their own in a label of fractures, from a mask of vertebra instances.

    Args:
        keys: labels (1, X, Y, Z): background 0, fracture 1, perhaps an ignore value.
        vertebrae_key: vertebra instances in VerSe's labels on the same grid.
        intact_value: what background inside a vertebra becomes.

    Raises:
        ValueError: when a case has no instances, or they lie on another grid.
    """

    def __init__(self, keys: KeysCollection, vertebrae_key: str = "vertebrae", intact_value: int = 2) -> None:
        super().__init__(keys)
        self.vertebrae_key, self.intact_value = vertebrae_key, intact_value

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with intact vertebrae marked in the labels."""
        result = dict(data)
        if self.vertebrae_key not in result:
            raise ValueError(
                f"the case names no `{self.vertebrae_key}`, a mask of vertebra instances; add it to the datalist, or leave "
                "configs/vertebra_loss.yaml out"
            )
        bone = result[self.vertebrae_key]
        for key in self.key_iterator(result):
            label = result[key]
            if label.shape != bone.shape:
                raise ValueError(
                    f"`{self.vertebrae_key}` has shape {tuple(bone.shape[1:])} and `{key}` {tuple(label.shape[1:])}; resample it"
                )
            intact = torch.as_tensor((label == 0) & (bone > 0) & (bone != SACRUM))
            result[key] = torch.where(intact, torch.full_like(label, self.intact_value), label)
        return result


class VertebraLoss(nn.Module):
    """Loss of the fracture plus that of an auxiliary head that tells vertebra, intact or fractured, from the rest.

    The head is a 1x1 convolution on what the network's last layer is given; it lives in training alone, so the network keeps its
    one output and checkpoints do not change. Not in the paper.

    Args:
        loss: loss of logits (B, 2, *size) and labels (B, 1, *size), used for both tasks.
        network: network whose layer is listened to.
        weight: weight of the auxiliary loss.
        layer: name of the network's last layer, a convolution.
        intact_value: value of intact vertebrae in the label, see ``MarkIntactd``.

    Raises:
        InputError: when the network has no such layer, or there are several processes, which would not share the head.
    """

    def __init__(
        self,
        loss: nn.Module,
        network: nn.Module,
        weight: float = 0.5,
        layer: str = "decoder.head",
        intact_value: int = 2,
    ) -> None:
        super().__init__()
        last: Any = dict(network.named_modules()).get(layer)
        if last is None or not hasattr(last, "in_channels"):
            raise InputError(f"layer={layer!r}: the network has no such convolution; name its last one")
        if world_size() > 1:
            raise InputError("configs/vertebra_loss.yaml: is for one process; leave torchrun or this overlay out")
        self.loss, self.weight, self.intact_value = loss, weight, intact_value
        self.head: nn.Module = Conv[Conv.CONV, last.weight.dim() - 2](last.in_channels, 2, kernel_size=1)
        self.head.to(last.weight.device)
        self.features: torch.Tensor | None = None
        last.register_forward_pre_hook(self._listen)

    def _listen(self, layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self.features = arguments[0] if layer.training and torch.is_grad_enabled() else None

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, 2, *size) against labels (B, 1, *size) with intact vertebrae marked."""
        intact = target == self.intact_value
        total = self.loss(prediction, torch.where(intact, torch.zeros_like(target), target))
        features, self.features = self.features, None
        if features is None:
            return total
        size = [slice(n) for n in prediction.shape[2:]]  # the network crops what it padded
        seen = self.head(features.float())[(slice(None), slice(None), *size)]
        return total + self.weight * self.loss(seen, torch.where(intact, torch.ones_like(target), target))
