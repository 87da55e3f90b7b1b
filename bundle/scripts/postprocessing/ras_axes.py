# SPDX-License-Identifier: Apache-2.0
"""Volumes of any orientation with their axes along R, A, S, and back: axial and coronal networks have other axes."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray


class RasAxes:
    """Orientation of a volume (C, X, Y, Z).

    Args:
        volume: volume; without an affine (no ``MetaTensor``) its axes are R, A, S.

    Attributes:
        spacing: mm along R, A, S; 1 without an affine.
    """

    def __init__(self, volume: torch.Tensor) -> None:
        self._orientation, self.spacing = nib.orientations.io_orientation(np.eye(4)), [1.0, 1.0, 1.0]
        if isinstance(volume, MetaTensor):
            affine = volume.affine.detach().cpu().numpy().astype(float)
            self._orientation = nib.orientations.io_orientation(affine)
            sizes = np.linalg.norm(affine[:3, :3], axis=0)
            self.spacing = [float(sizes[np.flatnonzero(self._orientation[:, 0] == axis)[0]]) for axis in range(3)]

    def turned(self, array: NDArray) -> NDArray:
        """View (R, A, S) of an array on the axes of the volume."""
        return nib.orientations.apply_orientation(array, self._orientation)

    def restored(self, array: NDArray) -> NDArray:
        """Array on the axes of the volume of one (R, A, S)."""
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), self._orientation)
        return np.ascontiguousarray(nib.orientations.apply_orientation(array, back))
