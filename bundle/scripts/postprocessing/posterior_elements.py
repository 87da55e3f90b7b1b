# SPDX-License-Identifier: Apache-2.0
"""Posterior elements of vertebrae in contact: each goes to the vertebra whose anatomy it fits.

Facets of neighbours touch on a grid of 1.5 mm, and a spinous process lies beside the body of the next vertebra, so that flooding
from the bodies puts a fifth of the posterior elements into a neighbour. Their position along the spine follows from the distance
behind and beside the body: the further behind, the lower. ``benchmarks/posterior_elements.py`` fits this to masks of vertebra
instances. A process belongs to one vertebra, so that every voxel is decided together with its surroundings and with the thick part
of bone that it lies in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter

from .bone_parts import divide_at_necks

# Height above the centre of the body as a fraction of the distance between neighbours, from the distance y behind and r beside
# its centre as fractions of its width: the terms 1, y, y^2, r, y r. Fit to 51 vertebrae of five VerSe masks (004, 009, 010,
# gl003, gl017).
COEFFICIENTS = (0.332, -0.421, -0.067, -0.269, 0.625)
MAX_BEHIND, MAX_BESIDE = 2.5, 1.5  # of y and r, beyond which there was nothing to fit
POSTERIOR_START = 0.3  # y, behind which a voxel belongs to the posterior elements
REACH = 1.5  # of posterior elements above and below the centre of the body, in distances between neighbours
SMOOTH_MM = 4.5  # a voxel is decided with its surroundings
NECK_MM, PART_WEIGHT = 0.5, 0.5  # and with the part of bone that it lies in, see ``divide_at_necks``, and the weight of that
TRUNCATE = 3.0  # of the smoothing, standard deviations
MAX_COST_MM = 60.0
BODY_FILL = 0.8  # height of a body per distance between neighbours
PLAUSIBLE_WIDTH, PLAUSIBLE_GAP = (0.7, 1.4), 1.6  # of the median, where the border cuts a body or a neighbour is missing


@dataclass(frozen=True)
class BodyPose:
    """Position of a body in the spine.

    Attributes:
        centre: (R, A, S) in mm.
        up: unit vector along the spine towards the head.
        front: unit vector in the sagittal plane, across ``up``.
        gap: distance between neighbouring bodies in mm.
        width: width of the body in mm.
    """

    centre: NDArray[np.float64]
    up: NDArray[np.float64]
    front: NDArray[np.float64]
    gap: float
    width: float

    def coordinates(self, points: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Height in gaps, distance behind and distance beside the centre in widths, of points (K, 3) in mm."""
        offset = points - self.centre
        side = np.cross(self.front, self.up)
        return offset @ self.up / self.gap, -(offset @ self.front) / self.width, np.abs(offset @ side) / self.width


def terms(behind: NDArray, beside: NDArray) -> NDArray[np.float64]:
    """Terms (K, 5) of the expected height at distances behind and beside the centre of the body, in widths."""
    y, r = np.clip(behind, -0.5, MAX_BEHIND), np.clip(beside, 0.0, MAX_BESIDE)
    return np.stack([np.ones_like(y), y, y * y, r, y * r], axis=1)


def body_poses(bodies: NDArray, count: int, spacing: Sequence[float]) -> list[BodyPose]:
    """Poses of the bodies 1 to ``count``, from the head to the feet.

    Args:
        bodies: (R, A, S) number of the vertebra in its body, 0 elsewhere.
        count: number of bodies, at least 2, none of them empty.
        spacing: mm.
    """
    centres, volumes = [], []
    for number, box in enumerate(find_objects(bodies, max_label=count), 1):
        voxels = np.argwhere(bodies[box] == number) + [s.start for s in box]
        centres.append(voxels.mean(axis=0) * spacing)
        volumes.append(len(voxels) * float(np.prod(spacing)))
    steps = np.diff(centres, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    lengths = np.minimum(lengths, PLAUSIBLE_GAP * float(np.median(lengths)))
    around = [np.arange(max(n - 1, 0), min(n + 1, count - 1)) for n in range(count)]
    gaps = np.array([lengths[k].mean() for k in around])
    widths = np.sqrt(np.array(volumes) / (BODY_FILL * gaps))
    narrowest, widest = (f * float(np.median(widths)) for f in PLAUSIBLE_WIDTH)
    widths = np.clip(widths, narrowest, widest)
    poses = []
    for n in range(count):
        up = -steps[around[n]].sum(axis=0)
        up = up / np.linalg.norm(up)
        front = np.array([0.0, 1.0, 0.0]) - up * up[1]
        poses.append(BodyPose(centres[n], up, front / np.linalg.norm(front), float(gaps[n]), float(widths[n])))
    return poses


def _near(pose: BodyPose, points: NDArray) -> tuple[NDArray[np.bool_], NDArray, NDArray, NDArray]:
    """Points (K, 3) that can be posterior elements of a body, and of these the height, the distance behind and that beside."""
    coordinates = pose.coordinates(points)
    near = (np.abs(coordinates[0]) < REACH) & (coordinates[1] > POSTERIOR_START)
    height, behind, beside = (c[near] for c in coordinates)
    return near, height, behind, beside


def assign_posterior(labels: NDArray[np.uint8], bodies: NDArray, count: int, spacing: Sequence[float]) -> None:
    """Assign the voxels of posterior elements to the vertebra with the nearest expected height, in place.

    Args:
        labels: (R, A, S) number of the vertebra, 0 elsewhere; its voxels outside the bodies may change their number.
        bodies: (R, A, S) number of the vertebra in its body, 0 elsewhere.
        count: number of vertebrae.
        spacing: mm.
    """
    voxels = np.argwhere((labels > 0) & (bodies == 0))
    if count < 2 or not len(voxels):
        return
    poses = body_poses(bodies, count, spacing)
    points, posterior = voxels * np.array(spacing), np.zeros(len(voxels), bool)
    for pose in poses:
        posterior |= _near(pose, points)[0]
    if not posterior.any():
        return
    voxels, points = voxels[posterior], points[posterior]
    mask = np.zeros(labels.shape, bool)
    mask[tuple(voxels.T)] = True
    part = divide_at_necks(mask, spacing, NECK_MM)[tuple(voxels.T)]
    part_size = np.maximum(np.bincount(part), 1)
    sigma = SMOOTH_MM / np.array(spacing)
    margin = np.ceil(TRUNCATE * sigma).astype(int)
    best, number = np.zeros(len(voxels), np.float32), np.zeros(len(voxels), np.uint8)
    for n, pose in enumerate(poses, 1):
        near, height, behind, beside = _near(pose, points)
        if not near.any():
            continue
        expected = terms(behind, beside) @ np.array(COEFFICIENTS)
        # Below 0 where the vertebra is a candidate: sums over the same surroundings are compared.
        cost = np.minimum(np.abs(height - expected) * pose.gap, MAX_COST_MM) - MAX_COST_MM
        start = np.maximum(voxels[near].min(axis=0) - margin, 0)
        stop = np.minimum(voxels[near].max(axis=0) + margin + 1, labels.shape)
        field = np.zeros(stop - start, np.float32)
        field[tuple((voxels[near] - start).T)] = cost
        field = gaussian_filter(field, sigma, mode="constant", truncate=TRUNCATE)
        inside = ((voxels >= start) & (voxels < stop)).all(axis=1)
        value = np.zeros(len(voxels), np.float32)
        value[inside] = field[tuple((voxels[inside] - start).T)]
        value += PART_WEIGHT * (np.bincount(part, value) / part_size)[part].astype(np.float32)
        closer = value < best
        best[closer], number[closer] = value[closer], n
    changed = number > 0
    labels[tuple(voxels[changed].T)] = number[changed]
