# SPDX-License-Identifier: Apache-2.0
"""Reconstruction kernel, trabecular pattern and noise of a simulated CT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..style import ScanStyle
from .shapes import Array
from .vertebra import Grid

NOISE_CORRELATION_MM = 0.55
STREAK_CORRELATION_MM = (12.0, 0.6, 0.6)  # of photon starvation, along the longest way through the patient


def correlated_noise(rng: np.random.Generator, grid: Grid, correlation_mm: Array | float, std: float) -> Array:
    """Random field (X, Y, Z) of standard deviation ``std``, white noise smoothed by a Gaussian along (R, A, S)."""
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, sigma=correlation_mm / grid.spacing, mode="wrap")
    return noise * (std / max(float(noise.std()), 1e-6))


def trabecular_streaks(rng: np.random.Generator, grid: Grid, std: float) -> Array:
    """Vertical trabecular pattern of osteoporosis, (X, Y, Z) in HU of standard deviation ``std``."""
    return correlated_noise(rng, grid, np.array([0.5, 0.5, 5.0]), std)


def reconstruct(rng: np.random.Generator, image: Array, grid: Grid, style: ScanStyle) -> Array:
    """Blur an image, enhance its edges, and add correlated noise.

    Args:
        rng: random number generator of the noise.
        image: (X, Y, Z) HU without noise.
        grid: grid of the image.
        style: blur, edge enhancement and noise.

    Returns:
        (X, Y, Z) HU.
    """
    image = gaussian_filter(image, sigma=style.blur / grid.spacing, mode="nearest")
    if style.variation is not None and style.variation.edge_enhancement:
        smooth = gaussian_filter(image, sigma=1.0 / grid.spacing, mode="nearest")
        image = image + style.variation.edge_enhancement * (image - smooth)
    # The mean of a slab of thin slices, whose noise is independent, has less noise than they.
    std = style.noise * style.slab**0.5
    noise = correlated_noise(rng, grid, NOISE_CORRELATION_MM, std)
    negatives = style.variation.negatives if style.variation is not None else None
    if negatives is not None and negatives.starvation:
        noise += correlated_noise(rng, grid, np.array(STREAK_CORRELATION_MM), std * negatives.starvation)
    return image + noise


def thick_slices(
    image: Array, labels: NDArray[np.uint8], grid: Grid, slab: int, axis: int
) -> tuple[Array, NDArray[np.uint8], Grid]:
    """Mean of every ``slab`` slices along an axis, with the labels of the middle slice.

    Args:
        image: (X, Y, Z) HU.
        labels: (X, Y, Z) VerSe labels.
        grid: grid of both, with a multiple of ``slab`` slices.
        slab: number of slices, odd.
        axis: axis of the slices.

    Returns:
        Image, labels and grid of the thick slices.
    """
    shape = [*image.shape[:axis], image.shape[axis] // slab, slab, *image.shape[axis + 1 :]]
    spacing, origin = grid.spacing.copy(), grid.origin.copy()
    origin[axis] += spacing[axis] * (slab - 1) / 2
    spacing[axis] *= slab
    mean = image.reshape(shape).mean(axis=axis + 1)
    middle = np.take(labels.reshape(shape), slab // 2, axis=axis + 1)
    return mean, np.ascontiguousarray(middle), Grid(origin, spacing, mean.shape)
