# SPDX-License-Identifier: Apache-2.0
"""Targets of all outputs of a network in one label map, from a label of fractures and a mask of vertebra instances."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray

from ..core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..core.vertebrae import LEVELS, spine_order
from ..postprocessing.body_masks import vertebral_bodies

ATLAS = 1  # C1 has no body
SACRUM = 26
ENDS = {1: (ATLAS,), -1: (24, 25, SACRUM)}  # C1 towards the head; L5, L6 and the sacrum towards the feet: no vertebra follows them
IGNORED = 255
# Code of a voxel of a vertebra: 1 + part + 3 * state; the first two are the labels of training without bodies.
FRACTURED, INTACT, UNKNOWN_STATE = 0, 1, 2
POSTERIOR, BODY_PART, UNKNOWN_PART = 0, 2, 4
MAX_CODE = 9
UNLABELLED_HU = 100.0  # of bone beyond the labelled part of the spine
UNLABELLED_MM = 45.0  # a vertebra with its disc
BESIDE_MM = 15.0  # around the vertebrae, of their neighbours' processes


def code_of(state: int, part: int) -> int:
    """Code of a voxel of a vertebra.

    Args:
        state: ``FRACTURED``, ``INTACT`` or ``UNKNOWN_STATE``.
        part: ``POSTERIOR``, ``BODY_PART`` or ``UNKNOWN_PART``.
    """
    if state == UNKNOWN_STATE:
        return 7 + part // 2
    return 1 + state + part


def target_table(output: str) -> torch.Tensor:
    """Target (256,) of an output by code: 0, 1, or ``IGNORED``.

    Raises:
        ValueError: for an output without targets.
    """
    table = torch.zeros(256, dtype=torch.uint8)
    table[IGNORED] = IGNORED
    for state in (FRACTURED, INTACT, UNKNOWN_STATE):
        for part in (POSTERIOR, BODY_PART, UNKNOWN_PART):
            code = code_of(state, part)
            if output == "fracture":
                table[code] = {FRACTURED: 1, INTACT: 0, UNKNOWN_STATE: IGNORED}[state]
            elif output == "vertebra":
                table[code] = 1
            elif output == "body":
                table[code] = {POSTERIOR: 0, BODY_PART: 1, UNKNOWN_PART: IGNORED}[part]
            else:
                raise ValueError(f"output {output!r}: has no target; must be fracture, vertebra or body")
    return table


def unlabelled_bone(image: NDArray, labels: NDArray, affine: NDArray) -> NDArray[np.bool_]:
    """Bone beyond the labelled part of a spine, where a mask has no information: VerSe leaves out vertebrae that the border cuts.

    Nothing is missing above C1 and below L5, where the skull and the sacrum are no vertebrae.

    Args:
        image: (X, Y, Z) HU.
        labels: (X, Y, Z) vertebra instances in VerSe's labels.
        affine: (4, 4) voxel to world (R, A, S) in mm.
    """
    result = np.zeros(labels.shape, bool)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axis = int(np.argmax(np.abs(affine[2, :3]) / spacing))
    others = tuple(a for a in range(3) if a != axis)
    rows = np.flatnonzero((labels > 0).any(axis=others))
    reach, length = round(UNLABELLED_MM / float(spacing[axis])), labels.shape[axis]
    for side in (-1, 1) if len(rows) else ():
        edge = int(rows[0] if side < 0 else rows[-1])
        cranial = side * int(np.sign(affine[2, axis]))
        if edge == (0 if side < 0 else length - 1) or np.isin(labels, ENDS[cranial]).any():
            continue
        box = [slice(None)] * 3
        box[axis] = slice(edge, edge + reach) if side < 0 else slice(max(edge - reach + 1, 0), edge + 1)
        occupied = np.argwhere(labels[tuple(box)] > 0)
        for a in others:
            margin = round(BESIDE_MM / float(spacing[a]))
            box[a] = slice(max(int(occupied[:, a].min()) - margin, 0), int(occupied[:, a].max()) + margin + 1)
        # Processes of the first unlabelled vertebra reach beside the last labelled one.
        box[axis] = slice(0, edge + reach // 2) if side < 0 else slice(max(edge - reach // 2 + 1, 0), length)
        part = tuple(box)
        result[part] |= (image[part] > UNLABELLED_HU) & (labels[part] == 0)
    return result


class OutputTargetsd(MapTransform):
    """Label of fractures to codes of ``code_of``: the targets of all outputs, from a mask of vertebra instances.

    Args:
        keys: labels (1, X, Y, Z): background 0, fracture 1, perhaps an ignore index inside vertebrae of unknown grade.
        vertebrae_key: vertebra instances (1, X, Y, Z) in VerSe's labels on the same grid.
        image_key: CT (1, X, Y, Z) in HU on the same grid, for ``unlabelled_bone``; None treats it as background.
        bodies: separate bodies from posterior elements; False codes all as posterior, for networks without an output of body.

    Raises:
        ValueError: when a case has no instances, they or the image have a different grid, or they have no affine.
    """

    def __init__(
        self, keys: KeysCollection, vertebrae_key: str = "vertebrae", image_key: str | None = "image", bodies: bool = False
    ) -> None:
        super().__init__(keys)
        self.vertebrae_key, self.image_key, self.bodies = vertebrae_key, image_key, bodies

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with codes in place of labels."""
        result = dict(data)
        if self.vertebrae_key not in result:
            raise ValueError(
                f"the case has no `{self.vertebrae_key}`, a mask of vertebra instances; add it to the datalist, or leave out "
                "configs/vertebra_loss.yaml"
            )
        vertebrae, image = result[self.vertebrae_key], result.get(self.image_key)
        if not isinstance(vertebrae, MetaTensor):
            raise ValueError(f"`{self.vertebrae_key}` has no affine; load it as a MetaTensor")
        for key in self.key_iterator(result):
            label = result[key]
            for name, item in ((self.vertebrae_key, vertebrae), (self.image_key, image)):
                if item is not None and label.shape[1:] != item.shape[1:]:
                    shape, expected = tuple(item.shape[1:]), tuple(label.shape[1:])
                    raise ValueError(f"`{name}` has shape {shape}, expected {expected}, that of `{key}`; resample it")
            if isinstance(label, MetaTensor):
                offset = grid_offset(label.shape[1:], label.affine.cpu().numpy(), vertebrae.affine.cpu().numpy())
                if offset > AFFINE_TOLERANCE_MM:
                    raise ValueError(f"`{self.vertebrae_key}` lies up to {offset:.2f} mm off `{key}`; resample it to that grid")
            result[key] = convert_to_dst_type(self._codes(label, vertebrae, image)[None], label)[0]
        return result

    def _codes(self, label: torch.Tensor, vertebrae: MetaTensor, image: torch.Tensor | None) -> NDArray[np.uint8]:
        affine = vertebrae.affine.cpu().numpy()
        labelled = np.rint(torch.as_tensor(vertebrae)[0].cpu().numpy()).astype(np.uint8)
        instances = np.where(np.isin(labelled, [v for v in LEVELS if v != SACRUM]), labelled, np.uint8(0))
        state = torch.as_tensor(label)[0].cpu().numpy()
        inside = instances > 0
        codes = np.where(state == 1, code_of(FRACTURED, POSTERIOR), 0).astype(np.uint8)
        codes[state == IGNORED] = IGNORED
        codes[inside & (state == 0)] = code_of(INTACT, POSTERIOR)
        codes[inside & (state == IGNORED)] = code_of(UNKNOWN_STATE, POSTERIOR)
        if self.bodies:
            bodies, unknown = vertebral_bodies(instances, affine, [v for v in spine_order(instances) if v != ATLAS])
            self._add_part(codes, bodies & inside, BODY_PART)
            self._add_part(codes, inside & np.isin(instances, list(unknown)), UNKNOWN_PART)
            # A fracture outside every vertebra has no known part.
            self._add_part(codes, (codes == code_of(FRACTURED, POSTERIOR)) & ~inside, UNKNOWN_PART)
        if image is not None:
            codes[unlabelled_bone(torch.as_tensor(image)[0].cpu().numpy(), labelled, affine) & (codes == 0)] = IGNORED
        return codes

    @staticmethod
    def _add_part(codes: NDArray[np.uint8], mask: NDArray[np.bool_], part: int) -> None:
        for state in (FRACTURED, INTACT, UNKNOWN_STATE):
            codes[mask & (codes == code_of(state, POSTERIOR))] = code_of(state, part)
