# SPDX-License-Identifier: Apache-2.0
"""Phantom CT of a torso for the benchmarks of inference: a fractured spine, body wall, ribs, table and air."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.simulation.datasets.phantom import fractured_phantom
from scripts.simulation.spine_scan import SpineScan
from scripts.simulation.style import ScanStyle

BODY_MM = (165.0, 118.0)  # half axes, right-left and front-back


def torso(seed: int, fractures: int, spacing: tuple[float, float, float], shape: tuple[int, int, int], grades=(2, 3)) -> SpineScan:
    """Torso with a thoracolumbar spine.

    Args:
        seed: seed of all random numbers.
        fractures: number of fractured vertebrae.
        spacing: voxel size in mm along (R, A, S).
        shape: voxels along (R, A, S).
        grades: Genant grades to draw from.
    """
    field = tuple(n * s for n, s in zip(shape, spacing, strict=True))
    style = ScanStyle.random(np.random.default_rng([seed, 11]), "thoracolumbar")
    style = ScanStyle(**{**style.__dict__, "spacing": spacing, "field_of_view": field})
    scan = fractured_phantom(seed, "thoracolumbar", fractures, list(grades), style)
    image = scan.image
    rng = np.random.default_rng([seed, 13])
    x, y = (np.arange(n) * s for n, s in zip(image.shape[:2], spacing, strict=False))
    bone = scan.labels.any(axis=2)
    spine_x, spine_y = float(x[bone.any(1)].mean()), float(y[bone.any(0)].min())
    centre = (spine_x, spine_y + BODY_MM[1] - 12)
    radius = np.hypot((x[:, None] - centre[0]) / BODY_MM[0], (y[None] - centre[1]) / BODY_MM[1])
    depth = (1 - radius) * BODY_MM[1]  # mm below the skin, roughly
    angle = np.arctan2(y[None] - centre[1], x[:, None] - centre[0])
    noise = rng.normal(0, style.noise, image.shape[:2]).astype(np.float32)
    fat, air, wall = (depth > 0) & (depth < 9), depth <= 0, (depth > 16) & (depth < 24)
    for z in range(image.shape[2]):
        plane = image[:, :, z]
        plane[air] = -1000 + noise[air] / 2
        plane[fat & (scan.labels[:, :, z] == 0)] = (-105 + noise)[fat & (scan.labels[:, :, z] == 0)]
        # Ribs descend along the body wall from back to front and spare the spine.
        height = z * spacing[2] + 45 * np.abs(angle - np.pi / 2) / np.pi
        ribs = wall & (np.mod(height, 31) < 10) & (np.abs(angle + np.pi / 2) > 0.55) & (np.abs(angle - np.pi / 2) > 0.2)
        plane[ribs] = (520 + noise)[ribs]
        table = (y > spine_y - 38) & (y < spine_y - 30)
        plane[:, table] = np.where(air[:, table], -150, plane[:, table])
        noise = np.roll(noise, 17, axis=0)
    return scan


def save(scan: SpineScan, path: Path) -> list[int]:
    """Write the CT in the usual orientation of scanners (L, P, S) and return the labels of fractured vertebrae."""
    image = nib.Nifti1Image(scan.image[::-1, ::-1], _flipped(scan))
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return [f["label"] for f in scan.fractures]


def _flipped(scan: SpineScan) -> np.ndarray:
    affine = scan.affine.copy()
    for axis in (0, 1):
        affine[:3, 3] += affine[:3, axis] * (scan.image.shape[axis] - 1)
        affine[:3, axis] *= -1
    return affine
