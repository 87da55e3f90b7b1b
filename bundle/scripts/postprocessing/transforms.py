# SPDX-License-Identifier: Apache-2.0
"""Post-processing as transforms of a config."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..core.geometry import spacing_of
from .findings import PostProcessing
from .marked_probabilities import decides_by_vertebra, marked_probabilities

DEFAULTS = PostProcessing()
BY_VERTEBRA = "_by_vertebra"  # ending of a key: True where a mask consists of whole vertebrae, of which no part is removed


def _remaining(mask: torch.Tensor, settings: PostProcessing, name: str) -> torch.Tensor:
    """Findings that remain of a mask (1, X, Y, Z) in any orientation, bool."""
    if not isinstance(mask, MetaTensor):
        raise ValueError(f"{name} has no affine; load it as a MetaTensor, or set the smallest volume and width to 0")
    affine = mask.affine.cpu().numpy()[:3, :3]
    spacing = spacing_of(affine)
    lateral_axis = int(np.argmax(np.abs(affine[0]) / spacing))
    remaining = settings.filter_mask(mask[0].cpu().numpy() > 0, spacing, lateral_axis)
    return torch.from_numpy(remaining).to(mask.device)[None]


class PostProcessd(MapTransform):
    """Logits to a label map (1, *size) of 0 and 1, float32: the post-processing of ``PostProcessing`` as a transform.

    Volumes with an output of body: one decision per vertebra. Others: vertebra-level consistency, threshold, removal of small
    and narrow connected components (voxels that share a face).
    Slices (C, H, W): threshold only.

    Args:
        keys: logits (C, R, A, S) with their affine (``MetaTensor``), or (C, H, W).
        threshold: see ``PostProcessing``, as the following ones.
        min_volume_ml: 0 keeps every size.
        min_width_mm: 0 keeps every width.
        fill_holes: include cavities in a finding.
        largest: number of findings that are kept; None keeps all.
        consistency_mm: None switches the consistency off.
        consistency_fraction: fractured fraction of a vertebra above which the whole vertebra counts as fractured.
        softmax: False for probabilities (2, *size) in place of logits, in any orientation, as ``MarkedProbabilitiesd`` and an
            ``Invertd`` after it return them; neither consistency nor a decision per vertebra is applied to them.
        decision: "vertebra" or "voxel", see ``PostProcessing``.
        calibration: slope and intercept of the probability of a vertebra.

    Raises:
        ValueError: for a value out of range, or a volume without an affine where a volume or width is required.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = DEFAULTS.threshold,
        min_volume_ml: float = DEFAULTS.min_volume_ml,
        min_width_mm: float = DEFAULTS.min_width_mm,
        fill_holes: bool = DEFAULTS.fill_holes,
        largest: int | None = DEFAULTS.largest,
        consistency_mm: Sequence[float] | None = DEFAULTS.consistency_mm,
        consistency_fraction: float = DEFAULTS.consistency_fraction,
        softmax: bool = True,
        decision: str = DEFAULTS.decision,
        calibration: Sequence[float] = DEFAULTS.calibration,
    ) -> None:
        super().__init__(keys)
        self.settings = PostProcessing(
            threshold, min_volume_ml, min_width_mm, fill_holes, largest, consistency_mm, consistency_fraction, decision, calibration
        )
        self.softmax = softmax

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace logits by label maps."""
        result, s = dict(data), self.settings
        for key in self.key_iterator(result):
            probabilities = result[key]
            decided = result.pop(f"{key}{BY_VERTEBRA}", False)  # by ``MarkedProbabilitiesd``
            by_vertebra = decides_by_vertebra(probabilities, s) if self.softmax else bool(decided)
            filtering = not by_vertebra and (s.min_volume_ml > 0 or s.min_width_mm > 0 or s.fill_holes or s.largest is not None)
            if self.softmax:
                probabilities = marked_probabilities(probabilities, s)
            # At 0.5 the same as an argmax, also where rounding or resampling keeps the sum of the two from being 1.
            mask = (probabilities[1:2] * (1 - s.threshold) > probabilities[:1] * s.threshold).float()
            if filtering and mask.ndim == 4:
                remaining = _remaining(mask, s, f"PostProcessd: `{key}`")
                mask = torch.where(remaining, torch.ones_like(mask), torch.zeros_like(mask))
            result[key] = mask
        return result


class MarkedProbabilitiesd(MapTransform):
    """Logits to probabilities (2, *size) whose threshold is the mask, see ``marked_probabilities``; for ``Invertd`` after it.

    Args:
        keys: logits (C, R, A, S) with their affine (``MetaTensor``), or (C, H, W).
        threshold: see ``PostProcessing``, as the following ones.
        consistency_mm: None switches the consistency off.
        consistency_fraction: fractured fraction of a vertebra above which the whole vertebra counts as fractured.
        decision: "vertebra" or "voxel".
        calibration: slope and intercept of the probability of a vertebra.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = DEFAULTS.threshold,
        consistency_mm: Sequence[float] | None = DEFAULTS.consistency_mm,
        consistency_fraction: float = DEFAULTS.consistency_fraction,
        decision: str = DEFAULTS.decision,
        calibration: Sequence[float] = DEFAULTS.calibration,
    ) -> None:
        super().__init__(keys)
        self.settings = PostProcessing(
            threshold=threshold, consistency_mm=consistency_mm, consistency_fraction=consistency_fraction, decision=decision,
            calibration=calibration,
        )  # fmt: skip

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Replace logits by probabilities."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[f"{key}{BY_VERTEBRA}"] = decides_by_vertebra(result[key], self.settings)
            result[key] = marked_probabilities(result[key], self.settings)
        return result


class RemoveNarrowComponentsd(MapTransform):
    """Remove connected components that are narrow from left to right: vertebral bodies are wider than joints and processes.

    Args:
        keys: masks (1, X, Y, Z) with their affine (``MetaTensor``); any orientation.
        min_width: mm from left to right without a gap; 0 keeps everything.

    Raises:
        ValueError: for a negative width, or a mask without an affine.
    """

    def __init__(self, keys: KeysCollection, min_width: float = 0.0) -> None:
        super().__init__(keys)
        if min_width < 0:
            raise ValueError(f"RemoveNarrowComponentsd: min_width={min_width}; must be a distance in mm, or 0 for any width")
        self.settings = PostProcessing(min_volume_ml=0, min_width_mm=min_width)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Remove the narrow components of the masks."""
        result = dict(data)
        for key in self.key_iterator(result) if self.settings.min_width_mm > 0 else ():
            mask = result[key]
            remaining = _remaining(mask, self.settings, f"RemoveNarrowComponentsd: `{key}`")
            result[key] = torch.where(remaining, mask, torch.zeros_like(mask))
        return result
