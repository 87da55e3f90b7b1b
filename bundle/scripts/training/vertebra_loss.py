# SPDX-License-Identifier: Apache-2.0
"""Auxiliary task of training: vertebra, intact or fractured, against all other tissue."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import nn

from ..core.errors import InputError
from ..networks.outputs import NUM_CLASSES

SACRUM = 26  # VerSe's label; the phantom has no sacral vertebrae either


class RelabelIntactd(MapTransform):
    """Relabel intact vertebrae in a label of fractures, from a mask of vertebra instances.

    Args:
        keys: labels (1, X, Y, Z): background 0, fracture 1, perhaps an ignore index.
        vertebrae_key: vertebra instances (1, X, Y, Z) in VerSe's labels on the same grid.
        intact_value: new value of background inside a vertebra.

    Raises:
        ValueError: when a case has no instances, or they have a different grid.
    """

    def __init__(self, keys: KeysCollection, vertebrae_key: str = "vertebrae", intact_value: int = 2) -> None:
        super().__init__(keys)
        self.vertebrae_key, self.intact_value = vertebrae_key, intact_value

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with intact vertebrae relabelled."""
        result = dict(data)
        if self.vertebrae_key not in result:
            raise ValueError(
                f"the case has no `{self.vertebrae_key}`, a mask of vertebra instances; add it to the datalist, or leave out "
                "configs/vertebra_loss.yaml"
            )
        vertebrae = result[self.vertebrae_key]
        for key in self.key_iterator(result):
            label = result[key]
            if label.shape != vertebrae.shape:
                raise ValueError(
                    f"`{self.vertebrae_key}` has shape {tuple(vertebrae.shape[1:])}, expected {tuple(label.shape[1:])}, that of "
                    f"`{key}`; resample it"
                )
            intact = torch.as_tensor((label == 0) & (vertebrae > 0) & (vertebrae != SACRUM))
            result[key] = torch.where(intact, torch.full_like(label, self.intact_value), label)
        return result


class VertebraLoss(nn.Module):
    """Loss of fracture plus loss of the network's third output: vertebra, intact or fractured, against all other tissue.

    Args:
        loss: loss of logits (B, 2, *size) and labels (B, 1, *size), for both tasks.
        weight: weight of the auxiliary task.
        intact_value: value of intact vertebrae in the label, see ``RelabelIntactd``.

    Raises:
        InputError: for a weight that is not positive.
    """

    def __init__(self, loss: nn.Module, weight: float = 0.5, intact_value: int = 2) -> None:
        super().__init__()
        if weight <= 0:
            raise InputError(f"vertebra_loss: weight={weight}; must be greater than 0, or leave out configs/vertebra_loss.yaml")
        self.loss, self.weight, self.intact_value = loss, weight, intact_value

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, 3, *size) against labels (B, 1, *size) with intact vertebrae relabelled.

        Raises:
            InputError: when the network has no third output.
        """
        if prediction.shape[1] != NUM_CLASSES + 1:
            raise InputError(
                f"configs/vertebra_loss.yaml: the network has {prediction.shape[1]} outputs, expected "
                f"{NUM_CLASSES + 1}; set network_def::vertebra_output to true, for other networks network_def::out_channels to 3"
            )
        intact = target == self.intact_value
        fracture = self.loss(prediction[:, :NUM_CLASSES], torch.where(intact, torch.zeros_like(target), target))
        vertebra = torch.cat([torch.zeros_like(prediction[:, NUM_CLASSES:]), prediction[:, NUM_CLASSES:]], dim=1)
        return fracture + self.weight * self.loss(vertebra, torch.where(intact, torch.ones_like(target), target))
