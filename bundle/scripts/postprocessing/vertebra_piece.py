# SPDX-License-Identifier: Apache-2.0
"""Piece of a scan around one vertebra, so that its measurement takes no longer in a large scan than in a small one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.geometry import spacing_of
from .vertebra_frame import FrameError, body_centre

MARGIN_MM = 12.0  # of tissue around the vertebra
FINEST_MM = 0.75  # finer voxels take time and add nothing to a height that is a mean over an area


@dataclass(frozen=True)
class VertebraPiece:
    """Part of a scan around one vertebra.

    Attributes:
        label: value of the vertebra.
        labels: (X, Y, Z) instances.
        solid: (X, Y, Z) probability of the vertebral body, or fraction of the vertebra where bodies are not given.
        affine: (4, 4) voxel to world (R, A, S) of both, in mm.
        centre: (3,) centre of the body in world mm.
        centroid: (3,) centre of the vertebra in world mm.
        radius: radius of the greatest sphere in the body in mm.
    """

    label: int
    labels: NDArray
    solid: NDArray[np.float32]
    affine: NDArray[np.floating]
    centre: NDArray[np.floating]
    centroid: NDArray[np.floating]
    radius: float


def cut_out(
    labels: NDArray, affine: NDArray, label: int, box: tuple[slice, ...] | None, body: NDArray | None = None
) -> VertebraPiece:
    """Cut the surroundings of one vertebra out of a scan.

    Args:
        labels: (X, Y, Z) instance mask, any orientation.
        affine: (4, 4) voxel to world (R, A, S) in mm.
        label: value of the vertebra.
        box: slices of its bounding box (``ndimage.find_objects``), or None for an absent vertebra.
        body: (X, Y, Z) probability or mask of vertebral bodies on the same grid.

    Raises:
        FrameError: when the vertebra, or its body, is absent or in a single slice.
    """
    if box is None:
        raise FrameError(f"vertebra {label} is not in the mask")
    if min(b.stop - b.start for b in box) < 2:
        raise FrameError(f"vertebra {label} is in a single slice; a height needs at least two")
    spacing = spacing_of(affine)
    step = np.maximum(np.floor(FINEST_MM / spacing).astype(int), 1)
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    wide = tuple(
        slice(max(b.start - int(m), 0), min(b.stop + int(m), n), int(s))
        for b, m, n, s in zip(box, margin, labels.shape, step, strict=True)
    )
    piece, local = labels[wide], np.array(affine, float)
    local[:3, 3] += local[:3, :3] @ [w.start for w in wide]
    local[:3, :3] *= step
    own = piece == label
    centre, centroid, radius = body_centre(own, local, 1)
    solid = own.astype(np.float32)
    if body is not None:
        # The probability beside the instance counts, too: cut at the instance, its surface would lie half a voxel inside.
        solid = np.where(own | (piece == 0), body[wide], 0).astype(np.float32)
        core = own & (solid >= 0.5)
        if not core.any():
            raise FrameError(f"vertebra {label} has no voxel of a vertebral body")
        centre, _, radius = body_centre(core, local, 1)
    return VertebraPiece(label, piece, solid, local, centre, centroid, radius)
