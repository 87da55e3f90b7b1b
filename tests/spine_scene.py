# SPDX-License-Identifier: Apache-2.0
"""Schematic spines of any curve, pitch and voxel size, as labels, as probabilities of a network, and as CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

SOFT_TISSUE_HU, POSTERIOR_HU, BODY_HU, FRACTURED_HU = 40.0, 300.0, 500.0, 700.0
RAMP_MM = 2.5  # over which a probability falls across a surface


@dataclass
class Spine:
    """Vertebrae from the head to the feet, numbered from 1, on a grid along R, A, S.

    Attributes:
        labels: (R, A, S) number of the vertebra, 0 elsewhere.
        body: probability of vertebral body.
        vertebra: probability of vertebra.
        fracture: probability of fracture.
        centres: (N, 3) centres of the bodies in mm from the first voxel.
        spacing: mm.
    """

    labels: NDArray[np.uint8]
    body: NDArray[np.float16]
    vertebra: NDArray[np.float16]
    fracture: NDArray[np.float16]
    centres: NDArray[np.float64]
    spacing: tuple[float, float, float]

    @property
    def hu(self) -> NDArray[np.int16]:
        """CT whose HU name the outputs, for ``fakes.HuCodedOutputs``."""
        inside = np.where(self.body > 0.5, BODY_HU + (FRACTURED_HU - BODY_HU) * (self.fracture > 0.5), POSTERIOR_HU)
        return np.where(self.labels > 0, inside, SOFT_TISSUE_HU).astype(np.int16)


def _box(points: NDArray, centre: Sequence[float], half: Sequence[float]) -> NDArray[np.float64]:
    """Signed distance (mm) of points (..., 3) from a box, at least outside its corners."""
    return (np.abs(points - np.asarray(centre)) - np.asarray(half)).max(axis=-1)


def _stack(number: int, heights: Sequence[float], gap: float, pitch: NDArray, roll: NDArray) -> tuple[NDArray, NDArray]:
    """Centres (N, 3) and axes (N, 3, 3) of vertebrae on top of each other."""
    axes = np.stack([Rotation.from_euler("xy", (p, r), degrees=True).as_matrix() for p, r in zip(pitch, roll, strict=True)])
    centres = np.zeros((number, 3))
    for n in range(1, number):
        above, below = (heights[n - 1] + gap) / 2, (heights[n] + gap) / 2
        centres[n] = centres[n - 1] - above * axes[n - 1][:, 2] - below * axes[n][:, 2]
    return centres, axes


def make_spine(
    number: int = 4,
    height: float = 25.0,
    gap: float = 6.0,
    spacing: Sequence[float] = (2.0, 2.0, 2.0),
    kyphosis: float = 0.0,
    scoliosis: float = 0.0,
    pitch: Sequence[float] | None = None,
    heights: Sequence[float] | None = None,
    fractured: Sequence[int] = (),
    fused: Sequence[int] = (),
    half_width: float = 19.0,
    half_depth: float = 15.0,
    margin: Sequence[float] = (14.0, 20.0, 20.0),
    cut: tuple[float, float] = (0.0, 0.0),
    facets: bool = False,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
) -> Spine:
    """Make a spine.

    Args:
        number: vertebrae.
        height: of the bodies (mm).
        gap: of the discs (mm).
        spacing: mm.
        kyphosis: angle between the first and the last vertebra in the sagittal plane, degrees.
        scoliosis: the same in the coronal plane.
        pitch: angle of every vertebra in the sagittal plane in place of ``kyphosis``.
        heights: of every body in place of ``height``.
        fractured: numbers of the fractured vertebrae, which have the same shape.
        fused: numbers of the vertebrae whose disc below is bone.
        half_width: half of the width of a body (mm).
        half_depth: half of its depth.
        margin: soft tissue around (mm).
        cut: of the scan above the first and below the last body (mm) besides the margin.
        facets: whether the articular processes of neighbours touch.
        shift: of the spine in the grid (mm).
    """
    tall = np.full(number, height) if heights is None else np.asarray(heights, float)
    bend = np.linspace(-kyphosis / 2, kyphosis / 2, number) if pitch is None else np.asarray(pitch, float)
    centres, axes = _stack(number, tall, gap, bend, np.linspace(-scoliosis / 2, scoliosis / 2, number))
    size = np.array(spacing, float)
    reach = np.array([half_width, half_depth, 0.0]) + np.asarray(margin)
    low = centres.min(0) - reach - [0, 34.0, tall[-1] / 2 - cut[1]]
    high = centres.max(0) + reach + [0, 0.0, tall[0] / 2 - cut[0]]
    shape = np.maximum(np.ceil((high - low) / size).astype(int), 1)
    centres = centres - low + np.asarray(shift)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    world = index * size
    body_distance, distance = np.full(shape, 99.0), np.full(shape, 99.0)
    labels, fractures = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    for n in range(number):
        p = (world - centres[n]) @ axes[n]
        wall = (np.hypot(p[..., 0] / half_width, p[..., 1] / half_depth) - 1) * half_depth
        below = tall[n] / 2 + (gap if n + 1 in fused else 0.0)
        body = np.maximum(wall, np.maximum(p[..., 2] - tall[n] / 2, -below - p[..., 2]))
        back = -half_depth
        parts = [_box(p, (s * 0.55 * half_width, back - 5, tall[n] / 5), (4, 10, tall[n] / 5)) for s in (-1, 1)]  # pedicles
        parts += [_box(p, (0, back - 15, 0), (14, 3, tall[n] / 3)), _box(p, (0, back - 24, -4), (3.5, 8, tall[n] / 4))]
        if facets:
            parts += [_box(p, (s * 14, back - 14, 0), (4, 4, (tall[n] + gap) / 2 - 0.3)) for s in (-1, 1)]
        whole = np.minimum(body, np.min(parts, axis=0))
        closer = whole < distance
        labels[closer & (whole < 0)] = n + 1
        fractures[closer & (n + 1 in fractured)] = True
        fractures[closer & (n + 1 not in fractured)] = False
        body_distance, distance = np.minimum(body_distance, body), np.minimum(distance, whole)

    def probability(d: NDArray) -> NDArray[np.float16]:
        return np.clip(0.5 - d / RAMP_MM, 0, 1).astype(np.float16)

    vertebra = probability(distance)
    fracture = np.where(fractures, vertebra, np.float16(0.02))
    return Spine(labels, probability(body_distance), vertebra, fracture, centres, tuple(map(float, size)))  # type: ignore[arg-type]


def overlap(labels: NDArray, expected: NDArray) -> float:
    """Smallest intersection over union of equal numbers."""
    numbers = np.unique(expected[expected > 0])
    return min(
        np.count_nonzero((labels == n) & (expected == n)) / np.count_nonzero((labels == n) | (expected == n)) for n in numbers
    )


def affine_of(spine: Spine, origin: Sequence[float] = (-40.0, 25.0, 100.0)) -> NDArray[np.float64]:
    """Affine (4, 4) of the grid of a spine along R, A, S."""
    affine = np.diag([*spine.spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def save_nifti(path: Path, data: NDArray, affine: NDArray[np.float64], codes: str = "RAS") -> Path:
    """Write data along R, A, S in another orientation of its axes."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(codes))), path)
    return path


def read_ras(path: Path) -> NDArray:
    """Voxels along R, A, S."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
