# SPDX-License-Identifier: Apache-2.0
"""Logits of a whole volume to probabilities whose threshold is the mask: by voxel, or one decision per vertebra."""

from __future__ import annotations

import numpy as np
import torch

from ..networks.outputs import BODY, FRACTURE, NUM_CLASSES, VERTEBRA
from .findings import PostProcessing
from .ras_axes import RasAxes
from .vertebra_consistency import consistent_probabilities
from .vertebra_decision import decide
from .vertebra_instances import VERTEBRA_PROBABILITY, find_vertebrae
from .vertebra_levels import levels_without_sacrum


def decides_by_vertebra(logits: torch.Tensor, settings: PostProcessing) -> bool:
    """True for volumes (C, R, A, S) with an output of body, unless the decision is one per voxel.

    Before its training the output has one value everywhere, and the decision is one per voxel, too.
    """
    if settings.decision != "vertebra" or logits.ndim != 4 or len(logits) <= BODY:
        return False
    body = torch.as_tensor(logits)[BODY]
    return bool((body != body.flatten()[0]).any())


def marked_probabilities(logits: torch.Tensor, settings: PostProcessing) -> torch.Tensor:
    """Probabilities (2, *size) of background and fracture, above ``settings.threshold`` where the mask is.

    With one decision per vertebra, they are those of vertebra inside the fractured ones, on a scale on which 0.5 is the threshold,
    so that resampling them to another grid and the threshold return whole vertebrae, and 0 elsewhere.

    Args:
        logits: (C, X, Y, Z) of any orientation, or slices (C, H, W), which pass through the softmax only.
        settings: post-processing.
    """
    if not decides_by_vertebra(logits, settings):
        return consistent_probabilities(logits, settings.consistency_mm, settings.consistency_fraction)
    axes = RasAxes(logits)
    plain = torch.as_tensor(logits).float().cpu()
    fracture = axes.turned(torch.softmax(plain[:NUM_CLASSES], dim=0)[FRACTURE].numpy())
    vertebra, body = (np.ascontiguousarray(axes.turned(torch.sigmoid(plain[n]).numpy())) for n in (VERTEBRA, BODY))
    instances, _ = levels_without_sacrum(find_vertebrae(vertebra, body, axes.spacing), axes.spacing)
    decisions = decide(instances, fracture, body, settings.threshold, settings.calibration)
    inside = np.maximum(vertebra, body)
    half = VERTEBRA_PROBABILITY
    scaled = np.where(
        inside > half,
        settings.threshold + (inside - half) * (1 - settings.threshold) / (1 - half),
        inside * settings.threshold / half,
    )
    marked = torch.from_numpy(axes.restored(np.where(decisions.mask(), scaled, 0).astype(np.float32))).to(logits.device)
    probabilities = torch.softmax(logits[:NUM_CLASSES].float(), dim=0)
    probabilities[0], probabilities[1] = 1 - marked, marked
    return probabilities
