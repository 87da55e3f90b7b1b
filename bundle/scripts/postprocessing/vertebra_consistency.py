# SPDX-License-Identifier: Apache-2.0
"""Vertebra-level consistency: one decision per vertebra in place of one per slice. Not in the paper."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..networks.outputs import FRACTURE, NUM_CLASSES, VERTEBRA
from .ras_axes import RasAxes

BLOCK_VOXELS = 2**22  # processed at a time, in float32
TRUNCATE_SIGMAS = 3.0  # of the Gaussian average


def check_consistency(consistency_mm: Sequence[float] | None, consistency_fraction: float) -> None:
    """Check the arguments of ``apply_consistency``.

    Raises:
        ValueError: for a value out of range, with the remedy.
    """
    if consistency_mm is not None and (
        isinstance(consistency_mm, (int, float)) or len(consistency_mm) != 3 or min(consistency_mm) < 0
    ):
        raise ValueError(
            f"consistency_mm={consistency_mm}: must be three distances in mm, right-left, anterior-posterior, inferior-superior; "
            "configs/inference/slicewise.yaml switches the consistency off"
        )
    if not 0 < consistency_fraction < 1:
        raise ValueError(f"consistency_fraction={consistency_fraction}: must be a fraction above 0 and below 1")


def apply_consistency(
    fracture: NDArray,
    vertebra: NDArray,
    spacing: Sequence[float],
    consistency_mm: Sequence[float] | None,
    consistency_fraction: float,
) -> None:
    """Make the slices of a vertebra consistent, in place.

    A single sagittal slice shows the collapse of a body through its middle and hides it at a pedicle or a joint. So the fractured
    fraction of the vertebra is averaged by a Gaussian, wide from left to right and narrow along the spine, towards the next one.
    The new probability is the smaller of two: that of vertebra, and the average fraction on a scale on which
    ``consistency_fraction`` is 0.5.

    Args:
        fracture: probabilities (R, A, S); overwritten.
        vertebra: probabilities of vertebra, intact or fractured, of the same shape. If all are below 0.5 (an output without
            training), ``fracture`` is unchanged.
        spacing: mm.
        consistency_mm: standard deviations of the average along R, A, S (mm); None: unchanged.
        consistency_fraction: fractured fraction of the vertebra that maps to a probability of 0.5.

    Raises:
        ValueError: for a value out of range.
    """
    check_consistency(consistency_mm, consistency_fraction)
    if consistency_mm is None or fracture.size == 0 or float(vertebra.max()) < 0.5:
        return
    sigma = [mm / step for mm, step in zip(consistency_mm, spacing, strict=True)]
    height = fracture.shape[2]
    rows, halo = max(BLOCK_VOXELS // int(np.prod(fracture.shape[:2])), 1), math.ceil(TRUNCATE_SIGMAS * sigma[2])
    below = fracture[:, :, :0]  # rows under the block before they were overwritten
    for first in range(0, height, rows):
        last, top = min(first + rows, height), min(first + rows + halo, height)
        block = np.concatenate([below, fracture[:, :, first:top]], axis=2).astype(np.float32)
        start = first - below.shape[2]
        below = block[:, :, max(last - halo, start) - start : last - start].astype(fracture.dtype)
        bone = np.maximum(block, vertebra[:, :, start:top].astype(np.float32))
        numerator, denominator = (gaussian_filter(a, sigma, mode="constant", truncate=TRUNCATE_SIGMAS) for a in (block, bone))
        fraction = np.clip(numerator / np.maximum(denominator, 1e-3), 0, 1)
        # Odds scaled so that consistency_fraction becomes 0.5.
        scaled = (
            fraction
            * (1 - consistency_fraction)
            / np.maximum(fraction * (1 - consistency_fraction) + (1 - fraction) * consistency_fraction, 1e-6)
        )
        interior = np.s_[:, :, first - start : last - start]
        fracture[:, :, first:last] = np.minimum(bone, scaled)[interior].astype(fracture.dtype)


def consistent_probabilities(
    logits: torch.Tensor, consistency_mm: Sequence[float] | None, consistency_fraction: float
) -> torch.Tensor:
    """Probabilities (2, *size) of background and fracture of logits (C, *size).

    The consistency is applied to volumes (C, X, Y, Z), of any orientation, with an output of vertebra; slices (C, H, W) pass
    through the softmax only.
    """
    probabilities = torch.softmax(logits[:NUM_CLASSES].float(), dim=0)
    if consistency_mm is not None and len(logits) > VERTEBRA and logits.ndim == 4:
        axes = RasAxes(logits)
        fracture = np.array(axes.turned(torch.as_tensor(probabilities)[FRACTURE].cpu().numpy()), order="C")
        vertebra = axes.turned(torch.sigmoid(torch.as_tensor(logits)[VERTEBRA].float()).cpu().numpy())
        apply_consistency(fracture, vertebra, axes.spacing, consistency_mm, consistency_fraction)
        updated = torch.from_numpy(axes.restored(fracture)).to(logits.device)
        probabilities[0], probabilities[1] = 1 - updated, updated
    return probabilities


class VertebraConsistencyd(MapTransform):
    """Logits to probabilities of background and fracture with vertebra-level consistency.

    Args:
        keys: logits (C, *size) of background, fracture and optionally vertebra; volumes (C, X, Y, Z) with their affine
            (``MetaTensor``).
        consistency_mm: see ``apply_consistency``; None applies the softmax only.
        consistency_fraction: see ``apply_consistency``.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self, keys: KeysCollection, consistency_mm: Sequence[float] | None = None, consistency_fraction: float = 0.4
    ) -> None:
        super().__init__(keys)
        check_consistency(consistency_mm, consistency_fraction)
        self.consistency_mm, self.consistency_fraction = consistency_mm, consistency_fraction

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace logits by probabilities (2, *size)."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = consistent_probabilities(result[key], self.consistency_mm, self.consistency_fraction)
        return result
