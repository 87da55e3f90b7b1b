# SPDX-License-Identifier: Apache-2.0
"""A second task in training, what is vertebra at all: who knows intact vertebrae can hold a fracture against them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import nn

from ..core.errors import InputError
from ..networks.outputs import NUM_CLASSES

SACRUM = 26  # VerSe's label; it is not drawn as a vertebra by the phantom either


class RelabelIntactd(MapTransform):
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
    """Loss of the fracture plus that of the network's third output, which tells vertebra, intact or fractured, from the rest.

    Args:
        loss: loss of logits (B, 2, *size) and labels (B, 1, *size), used for both tasks.
        weight: weight of the second task.
        intact_value: value of intact vertebrae in the label, see ``RelabelIntactd``.

    Raises:
        InputError: for a weight that is not above 0.
    """

    def __init__(self, loss: nn.Module, weight: float = 0.5, intact_value: int = 2) -> None:
        super().__init__()
        if weight <= 0:
            raise InputError(
                f"vertebra_loss: weight={weight}; give more than 0, or leave configs/vertebra_loss.yaml out"
            )
        self.loss, self.weight, self.intact_value = loss, weight, intact_value

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, 3, *size) against labels (B, 1, *size) with intact vertebrae marked.

        Raises:
            InputError: when there is no third output.
        """
        if prediction.shape[1] != NUM_CLASSES + 1:
            raise InputError(
                f"configs/vertebra_loss.yaml: the network has {prediction.shape[1]} outputs; a third is needed, set "
                "network_def::vertebra_output to true, of other networks network_def::out_channels to 3"
            )
        intact = target == self.intact_value
        fracture = self.loss(prediction[:, :NUM_CLASSES], torch.where(intact, torch.zeros_like(target), target))
        vertebra = torch.cat([torch.zeros_like(prediction[:, NUM_CLASSES:]), prediction[:, NUM_CLASSES:]], dim=1)
        return fracture + self.weight * self.loss(vertebra, torch.where(intact, torch.ones_like(target), target))
