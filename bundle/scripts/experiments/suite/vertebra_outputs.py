# SPDX-License-Identifier: Apache-2.0
"""Vertebra instances and their fracture probabilities beside the mask, for scores per vertebra of every network of a suite."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ...networks.outputs import BODY, FRACTURE, NUM_CLASSES, VERTEBRA
from ...postprocessing.findings import PostProcessing
from ...postprocessing.marked_probabilities import decides_by_vertebra
from ...postprocessing.ras_axes import RasAxes
from ...postprocessing.vertebra_decision import decide
from ...postprocessing.vertebra_instances import find_vertebrae
from ...postprocessing.vertebra_levels import levels_without_sacrum

INSTANCES = "vertebra_instances"
PROBABILITY = "probability"


class VertebraOutputsd(MapTransform):
    """Add the items ``vertebra_instances`` (1, R, A, S) and ``probability`` (1, R, A, S) to logits of a volume.

    ``probability`` has the calibrated probability of an instance in all of its voxels and 0 elsewhere, so that its mean over a
    vertebra of the reference ranks vertebrae. Without an output of body it is the probability of fracture by voxel, and there are
    no instances. Both are read by ``evaluation.cases.CaseTable``.

    Args:
        keys: logits (C, R, A, S) with their affine (``MetaTensor``).
        threshold: probability above which a vertebra is fractured.
        decision: "vertebra" or "voxel".
        calibration: slope and intercept of the probability of a vertebra.
    """

    def __init__(
        self, keys: KeysCollection, threshold: float = 0.5, decision: str = "vertebra", calibration: Sequence[float] = (1.0, 0.0)
    ) -> None:
        super().__init__(keys)
        self.settings = PostProcessing(threshold=threshold, decision=decision, calibration=tuple(calibration))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Add both items, or the probability alone."""
        result = dict(data)
        for key in self.key_iterator(result):
            logits = result[key]
            plain = torch.as_tensor(logits).float().cpu()
            fracture = torch.softmax(plain[:NUM_CLASSES], dim=0)[FRACTURE].numpy()
            if decides_by_vertebra(logits, self.settings):
                axes = RasAxes(logits)
                vertebra, body = (np.ascontiguousarray(axes.turned(torch.sigmoid(plain[n]).numpy())) for n in (VERTEBRA, BODY))
                instances, _ = levels_without_sacrum(find_vertebrae(vertebra, body, axes.spacing), axes.spacing)
                decisions = decide(instances, axes.turned(fracture), body, self.settings.threshold, self.settings.calibration)
                by_number = np.zeros(256, np.float32)
                for number, probability in decisions.probability.items():
                    by_number[number] = np.nan_to_num(probability)
                labels = axes.restored(instances.labels)
                fracture = by_number[labels]
                result[INSTANCES] = self._like(labels, logits)
            result[PROBABILITY] = self._like(fracture, logits)
        return result

    @staticmethod
    def _like(volume: np.ndarray, logits: torch.Tensor) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None]
        return MetaTensor(tensor, meta=logits.meta) if isinstance(logits, MetaTensor) else tensor
