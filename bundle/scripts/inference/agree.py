# SPDX-License-Identifier: Apache-2.0
"""One opinion on a vertebra: what its slices say of it is averaged from left to right."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from .predict import CLASSES

BLOCK = 2**22  # voxels that are worked on at a time, in float32
REACH = 3.0  # standard deviations of the average


def check(agree_mm: float, agree_share: float) -> None:
    """Check the arguments of ``agree``.

    Raises:
        ValueError: for a value out of range, with the remedy.
    """
    if agree_mm < 0:
        raise ValueError(f"agree_mm={agree_mm}: give a distance in mm, or 0 to leave every slice to itself")
    if not 0 < agree_share < 1:
        raise ValueError(f"agree_share={agree_share}: give a share above 0 and below 1")


def agree(
    fracture: NDArray, vertebra: NDArray, step_mm: float, agree_mm: float = 18.0, agree_share: float = 0.4
) -> None:
    """Let the slices of a vertebra agree, in place.

    A network that sees one slice knows a collapsed body in the slices through the middle and cannot know it in those through a
    pedicle or a joint. So the share of fracture in what is vertebra is averaged from left to right, and a voxel becomes as sure as
    the less sure of two things: that it is vertebra, and that the share beside it is at least ``agree_share``. Not in the paper.

    Args:
        fracture: probabilities (R, A, S); overwritten.
        vertebra: probabilities of vertebra, intact or fractured, of the same shape. Where they nowhere reach a half (an output that
            was never trained), ``fracture`` stays as it is.
        step_mm: from one slice to the next along the first axis.
        agree_mm: standard deviation of the average from left to right; 0 leaves ``fracture`` as it is.
        agree_share: share of fracture in the vertebra from which on the vertebra is fractured, at a threshold of 0.5.

    Raises:
        ValueError: for a value out of range.
    """
    check(agree_mm, agree_share)
    if agree_mm == 0 or fracture.size == 0 or float(vertebra.max()) < 0.5:
        return
    rows = max(BLOCK // int(np.prod(fracture.shape[:2])), 1)
    sigma = agree_mm / step_mm
    for first in range(0, fracture.shape[2], rows):
        part = np.s_[:, :, first : first + rows]
        sure = fracture[part].astype(np.float32)
        bone = np.maximum(sure, vertebra[part].astype(np.float32))
        top, bottom = (
            gaussian_filter1d(a, sigma, axis=0, mode="constant", truncate=REACH, output=np.float32)
            for a in (sure, bone)
        )
        share = np.clip(top / np.maximum(bottom, 1e-3), 0, 1)
        # The odds are moved so that agree_share becomes a half.
        moved = share * (1 - agree_share) / np.maximum(share * (1 - agree_share) + (1 - share) * agree_share, 1e-6)
        fracture[part] = np.minimum(bone, moved).astype(fracture.dtype)


class Agreementd(MapTransform):
    """Logits of a network as probabilities of background and fracture, after the slices of a vertebra agreed; see ``agree``.

    Args:
        keys: logits (C, *size) of background, fracture and perhaps vertebra; volumes (C, R, A, S) know their affine.
        agree_mm: standard deviation of the average from left to right (mm); 0, two outputs or slices (C, H, W): no agreement.
        agree_share: share of fracture in a vertebra that makes it fractured.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(self, keys: KeysCollection, agree_mm: float = 0.0, agree_share: float = 0.4) -> None:
        super().__init__(keys)
        check(agree_mm, agree_share)
        self.agree_mm, self.agree_share = agree_mm, agree_share

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with probabilities (2, *size) in place of logits."""
        result = dict(data)
        for key in self.key_iterator(result):
            logits = result[key]
            chances = torch.softmax(logits[:CLASSES].float(), dim=0)
            if self.agree_mm > 0 and len(logits) > CLASSES and logits.ndim == 4:
                step = float(logits.affine[:3, 0].norm()) if isinstance(logits, MetaTensor) else 1.0
                fracture = np.array(torch.as_tensor(chances)[1].cpu().numpy())
                vertebra = torch.sigmoid(torch.as_tensor(logits)[CLASSES].float()).cpu().numpy()
                agree(fracture, vertebra, step, self.agree_mm, self.agree_share)
                told = torch.from_numpy(fracture).to(logits.device)
                chances[0], chances[1] = 1 - told, told
            result[key] = chances
        return result
