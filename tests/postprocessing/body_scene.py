# SPDX-License-Identifier: Apache-2.0
"""Vertebral bodies of exact heights with posterior elements, as instances and as CT, in any pose, voxel size and orientation."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

HALF_WIDTH, HALF_DEPTH = 20.0, 15.0
CENTRES = {21: 34.0, 22: 0.0, 23: -34.0}  # L2 to L4 along the spine in mm
ORDER = list(CENTRES)
ZONE_CENTRES = {"anterior": 0.65, "middle": 0.0, "posterior": -0.65}  # of core.genant.ZONES, from -1 to 1


@dataclass
class Scene:
    labels: NDArray[np.uint8]
    image: NDArray[np.float32]
    distance: NDArray[np.float32]  # of the endplates and walls of the bodies, mm, negative inside
    affine: NDArray[np.floating]

    @property
    def fraction(self) -> NDArray[np.float32]:
        """Fraction of every voxel in a body, by its distance to the surface along the last axis."""
        return np.clip(0.5 - self.distance / np.linalg.norm(self.affine[:3, 2]), 0, 1).astype(np.float32)

    def reoriented(self, codes: str) -> Scene:
        change = ornt_transform(io_orientation(self.affine), axcodes2ornt(codes))
        arrays = [nib.apply_orientation(a, change) for a in (self.labels, self.image, self.distance)]
        return Scene(*arrays, self.affine @ inv_ornt_aff(change, self.labels.shape))  # type: ignore[arg-type]


def make_scene(
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    anterior: float = 26.0,
    posterior: float = 26.0,
    concavity: float = 0.0,
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
    round_body: bool = False,
    half: tuple[float, float, float] = (32.0, 62.0, 62.0),
) -> Scene:
    """L2 to L4; the middle one has the given heights (mm) at both walls, the others 26 mm.

    Angles are in degrees around the lateral, the anterior and the long axis.
    """
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    shape = [int(2 * h * scale / s) for h, s in zip(half, spacing, strict=True)]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) * s / 2 + 0.3 for n, s in zip(shape, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    world = np.tensordot(affine[:3, :3], grid, axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    x, y, z = np.tensordot(axes.T, world, axes=1) / scale
    labels = np.zeros(shape, np.uint8)
    nearest = np.full(shape, 50.0, np.float32)
    for label, centre in CENTRES.items():
        front, back = (anterior, posterior) if label == 22 else (26.0, 26.0)
        height = back + (front - back) * (y / HALF_DEPTH + 1) / 2
        height = height - (concavity * np.clip(1 - (y / HALF_DEPTH) ** 2, 0, 1) if label == 22 else 0)
        wall = np.hypot(x / HALF_WIDTH, y / HALF_DEPTH) if round_body else np.maximum(abs(x) / HALF_WIDTH, abs(y) / HALF_DEPTH)
        distance = np.maximum((wall - 1) * HALF_DEPTH, abs(z - centre) - height / 2) * scale
        pedicles = (abs(abs(x) - 12) < 4) & (y < -HALF_DEPTH + 1) & (y > -40) & (abs(z - centre - 4) < 5)
        arch = pedicles | ((abs(x) < 16) & (y < -32) & (y > -40) & (abs(z - centre) < 8))
        labels[(distance < 0) | arch] = label
        nearest = np.minimum(nearest, distance)
    # A cortex of 1 mm, smoothed as by a reconstruction kernel, over cancellous bone; disc and soft tissue outside.
    sigma = 0.6
    inside, cortex = 1 / (1 + np.exp(nearest / (0.5 * sigma))), np.exp(-(((nearest + 0.5) / 0.8) ** 2))
    image = (80 + 70 * inside + 350 * cortex).astype(np.float32)
    return Scene(labels, image, nearest.astype(np.float32), affine)
