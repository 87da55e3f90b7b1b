# SPDX-License-Identifier: Apache-2.0
"""Reconstruction kernel, trabecular pattern and noise of a simulated CT."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from ..style import ScanStyle
from .shapes import Array
from .vertebra import Grid

NOISE_CORRELATION_MM = 0.55


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
    return image + correlated_noise(rng, grid, NOISE_CORRELATION_MM, style.noise)
