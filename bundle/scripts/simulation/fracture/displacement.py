# SPDX-License-Identifier: Apache-2.0
"""Displacement of a simulated fracture: compression of one vertebral body along its axis.

The displacement is parallel to the axis of the vertebra, and the map along every line parallel to it is increasing. Its Jacobian
determinant is the derivative along that axis, and therefore positive everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...postprocessing.vertebra_frame import STEP_MM, VertebraFrame, axis_samples, measure_heights

FADE_MM = 9.0  # distance outside the body over which the displacement decreases to 0
SMOOTHING_MM = 1.0  # standard deviation of the smoothing of the displacement
MAX_LOSS = 0.8  # relative loss of height of any column
LOSS_TOLERANCE = 0.003  # of the calibration on the mask in the frame


def sample_loss_pattern(rng: np.random.Generator, frame: VertebraFrame, shape: str) -> NDArray[np.float64]:
    """Loss of height over the body, (X, Y), relative to its maximum."""
    v = np.clip(frame.depth, 0, 1)
    half_width = max(np.abs(axis_samples(0)[frame.footprint.any(axis=1)]).max(), 1.0)
    u = (axis_samples(0) / half_width)[:, None]
    if shape == "wedge":
        pattern = rng.uniform(0.05, 0.22) + v ** rng.uniform(0.8, 1.4)
        pattern = pattern * (1 + rng.uniform(-0.12, 0.12) * u)
    elif shape == "biconcave":
        pattern = np.exp(-(((v - rng.uniform(0.44, 0.54)) / rng.uniform(0.27, 0.34)) ** 2) - (u / 1.1) ** 4)
        pattern = pattern + rng.uniform(0.02, 0.12)
    else:
        pattern = 1 + rng.uniform(-0.12, 0.12) * (v - 0.5) + rng.uniform(-0.08, 0.08) * u
    roughness = ndimage.gaussian_filter(rng.standard_normal(v.shape), 4.0)
    pattern = pattern * (1 + 0.09 * roughness / max(roughness.std(), 1e-6))
    return np.clip(pattern / pattern[frame.footprint].max(), 0.0, None)


def displacement_field(frame: VertebraFrame, loss: NDArray, upper_fraction: float) -> NDArray[np.float64]:
    """Displacement (X, Y, T) in mm along the axis, from a position in the result to that in the intact scan.

    Args:
        frame: frame of the intact vertebra.
        loss: (X, Y) relative loss of height.
        upper_fraction: fraction of the loss at the upper endplate.
    """
    outside = ndimage.distance_transform_edt(~frame.footprint) * STEP_MM
    weight = np.where(outside < FADE_MM, 0.5 + 0.5 * np.cos(np.pi * np.minimum(outside, FADE_MM) / FADE_MM), 0.0)
    total = np.minimum(loss, MAX_LOSS) * weight * (frame.top - frame.bottom)
    down, up = upper_fraction * total, (1 - upper_fraction) * total
    t = axis_samples(2)[None, None, :]
    low, high = (frame.bottom + up)[..., None], (frame.top - down)[..., None]
    floor, ceiling = frame.floor[..., None], frame.ceiling[..., None]
    inside = -up[..., None] + (up + down)[..., None] * (t - low) / np.maximum(high - low, 1e-6)
    below = -up[..., None] * (t - floor) / np.maximum(low - floor, 1e-6)
    above = down[..., None] * (ceiling - t) / np.maximum(ceiling - high, 1e-6)
    field = np.where(t < low, np.maximum(below, -up[..., None]), np.where(t > high, above, inside))
    field = np.where((t <= floor) | (t >= ceiling), 0.0, field)
    return ndimage.gaussian_filter(field, SMOOTHING_MM / STEP_MM)


def warp_in_frame(mask: NDArray, field: NDArray) -> NDArray[np.float32]:
    """Mask (X, Y, T) of a frame displaced by a field in mm along its last axis, linearly interpolated."""
    index = np.arange(mask.shape[2])[None, None, :] + field / STEP_MM
    low = np.clip(np.floor(index).astype(int), 0, mask.shape[2] - 2)
    fraction = np.clip(index - low, 0, 1).astype(np.float32)
    return np.take_along_axis(mask, low, 2) * (1 - fraction) + np.take_along_axis(mask, low + 1, 2) * fraction


def calibrated_displacement(
    frame: VertebraFrame, pattern: NDArray, upper_fraction: float, zone: str, target: float
) -> NDArray[np.float64]:
    """Displacement whose relative loss of height in ``zone``, measured on the warped mask, is ``target``."""
    intact, scale = measure_heights(frame.mask, frame.footprint, frame.depth), target
    field = np.zeros_like(frame.mask, dtype=float)
    for _ in range(6):
        field = displacement_field(frame, scale * pattern, upper_fraction)
        heights = measure_heights(warp_in_frame(frame.mask, field), frame.footprint, frame.depth)
        loss = heights.loss_from(intact)[zone]
        if abs(loss - target) < LOSS_TOLERANCE:
            break
        scale *= float(np.clip(target / max(loss, 1e-3), 0.6, 1.7))
    return field
