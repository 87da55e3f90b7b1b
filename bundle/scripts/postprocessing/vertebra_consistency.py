# SPDX-License-Identifier: Apache-2.0
"""One opinion on a vertebra: what its slices say of it is averaged, mostly from left to right."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..networks.outputs import NUM_CLASSES

BLOCK = 2**22  # voxels that are worked on at a time, in float32
REACH = 3.0  # standard deviations of the average


def check(consistency_mm: Sequence[float] | None, consistency_fraction: float) -> None:
    """Check the arguments of ``agree``.

    Raises:
        ValueError: for a value out of range, with the remedy.
    """
    if consistency_mm is not None and (
        isinstance(consistency_mm, (int, float)) or len(consistency_mm) != 3 or min(consistency_mm) < 0
    ):
        raise ValueError(
            f"consistency_mm={consistency_mm}: give three distances in mm, right-left, anterior-posterior and up, or add "
            "configs/inference/slicewise.yaml to leave every slice to itself"
        )
    if not 0 < consistency_fraction < 1:
        raise ValueError(f"consistency_fraction={consistency_fraction}: give a share above 0 and below 1")


def agree(
    fracture: NDArray,
    vertebra: NDArray,
    spacing: Sequence[float],
    consistency_mm: Sequence[float] | None = (18.0, 12.0, 3.0),
    consistency_fraction: float = 0.4,
) -> None:
    """Let the slices of a vertebra agree, in place.

    A network that sees one slice knows a collapsed body in the slices through the middle and cannot know it in those through a
    pedicle or a joint. So the share of fracture in what is vertebra is averaged, farthest from left to right and hardly over the
    height, where the next vertebra is; and a voxel becomes as sure as the less sure of two things: that it is vertebra, and that
    the share around it is at least ``consistency_fraction``. Not in the paper.

    Args:
        fracture: probabilities (R, A, S); overwritten.
        vertebra: probabilities of vertebra, intact or fractured, of the same shape. Where they nowhere reach a half (an output that
            was never trained), ``fracture`` stays as it is.
        spacing: mm.
        consistency_mm: standard deviations of the average along R, A, S (mm); None leaves ``fracture`` as it is.
        consistency_fraction: share of fracture in the vertebra from which on the vertebra is fractured, at a threshold of 0.5.

    Raises:
        ValueError: for a value out of range.
    """
    check(consistency_mm, consistency_fraction)
    if consistency_mm is None or fracture.size == 0 or float(vertebra.max()) < 0.5:
        return
    sigma = [mm / step for mm, step in zip(consistency_mm, spacing, strict=True)]
    height = fracture.shape[2]
    rows, halo = max(BLOCK // int(np.prod(fracture.shape[:2])), 1), math.ceil(REACH * sigma[2])
    below = fracture[:, :, :0]  # rows under the block as they were before they were overwritten
    for first in range(0, height, rows):
        last, top = min(first + rows, height), min(first + rows + halo, height)
        seen = np.concatenate([below, fracture[:, :, first:top]], axis=2).astype(np.float32)
        start = first - below.shape[2]
        below = seen[:, :, max(last - halo, start) - start : last - start].astype(fracture.dtype)
        bone = np.maximum(seen, vertebra[:, :, start:top].astype(np.float32))
        above, under = (gaussian_filter(a, sigma, mode="constant", truncate=REACH) for a in (seen, bone))
        share = np.clip(above / np.maximum(under, 1e-3), 0, 1)
        # The odds are moved so that consistency_fraction becomes a half.
        moved = (
            share
            * (1 - consistency_fraction)
            / np.maximum(share * (1 - consistency_fraction) + (1 - share) * consistency_fraction, 1e-6)
        )
        own = np.s_[:, :, first - start : last - start]
        fracture[:, :, first:last] = np.minimum(bone, moved)[own].astype(fracture.dtype)


class VertebraConsistencyd(MapTransform):
    """Logits of a network as probabilities of background and fracture, after the slices of a vertebra agreed; see ``agree``.

    Args:
        keys: logits (C, *size) of background, fracture and perhaps vertebra; volumes (C, R, A, S) know their affine.
        consistency_mm: standard deviations of the average along R, A, S (mm); None, two outputs or slices (C, H, W): no agreement.
        consistency_fraction: share of fracture in a vertebra that makes it fractured.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self, keys: KeysCollection, consistency_mm: Sequence[float] | None = None, consistency_fraction: float = 0.4
    ) -> None:
        super().__init__(keys)
        check(consistency_mm, consistency_fraction)
        self.consistency_mm, self.consistency_fraction = consistency_mm, consistency_fraction

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with probabilities (2, *size) in place of logits."""
        result = dict(data)
        for key in self.key_iterator(result):
            logits = result[key]
            chances = torch.softmax(logits[:NUM_CLASSES].float(), dim=0)
            if self.consistency_mm is not None and len(logits) > NUM_CLASSES and logits.ndim == 4:
                spacing = logits.pixdim.tolist() if isinstance(logits, MetaTensor) else [1.0, 1.0, 1.0]
                fracture = np.array(torch.as_tensor(chances)[1].cpu().numpy())
                vertebra = torch.sigmoid(torch.as_tensor(logits)[NUM_CLASSES].float()).cpu().numpy()
                agree(fracture, vertebra, spacing, self.consistency_mm, self.consistency_fraction)
                told = torch.from_numpy(fracture).to(logits.device)
                chances[0], chances[1] = 1 - told, told
            result[key] = chances
        return result
