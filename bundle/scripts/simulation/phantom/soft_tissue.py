# SPDX-License-Identifier: Apache-2.0
"""Soft tissue of the phantom: skin, fat, muscle, vessels, lung, airway, bowel and thecal sac."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .shapes import Array
from .vertebra import Grid

HU = {
    "air": -1000.0,
    "lung": -860.0,
    "fat": -100.0,
    "muscle": 58.0,
    "blood": 45.0,
    "fluid": 12.0,
    "cord": 38.0,
    "disc": 88.0,
    "bowel": 30.0,
}
CORD_RADIUS_MM = 4.2
AIR_BELOW_HU = -300.0


def _stretch(values: Array, length: int, axis: int) -> Array:
    """Interpolate linearly along one axis to ``length`` samples."""
    position = np.linspace(0, values.shape[axis] - 1, length, dtype=np.float32)
    low = np.minimum(position.astype(int), values.shape[axis] - 2)
    weight = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    first = np.take(values, low, axis)
    return first + (np.take(values, low + 1, axis) - first) * weight


def smooth_noise(rng: np.random.Generator, grid: Grid, scale_mm: float) -> Array:
    """Random field (X, Y, Z) of unit standard deviation with a correlation length of about ``scale_mm``.

    It is sampled on a coarse lattice and interpolated, so its cost does not grow with the correlation length.
    """
    step = np.maximum(scale_mm / 2 / grid.spacing, 1.0)
    coarse = tuple(int(np.ceil(n / s)) + 3 for n, s in zip(grid.shape, step, strict=True))
    lattice = gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), sigma=0.9, mode="wrap")
    lattice /= max(float(lattice.std()), 1e-6)
    for axis, length in enumerate(grid.shape):
        lattice = _stretch(lattice, length, axis)
    return lattice


def blend(image: Array, value: Array | float, distance: Array, voxel: float) -> None:
    """Set ``image`` to ``value`` where ``distance`` (mm) is negative, in place, with a partial-volume border of ``voxel`` mm."""
    weight = np.clip(0.5 - distance / voxel, 0.0, 1.0)
    image += (value - image) * weight


def tissue_background(
    rng: np.random.Generator, grid: Grid, centre_line: NDArray[np.float64], region: str, contrast: float, posterior: float
) -> Array:
    """Body around the spine, (X, Y, Z) in HU.

    Args:
        rng: random number generator.
        grid: grid of the scan.
        centre_line: (Z, 2) x and y in mm of the vertebral bodies in every axial slice.
        region: key of ``anatomy.REGIONS``.
        contrast: enhancement of vessels by contrast medium in HU.
        posterior: distance in mm from the centre of a body to the tip of its spinous process.
    """
    voxel = grid.voxel
    x, y, z = grid.coordinates()
    dx = x - centre_line[:, 0].astype(np.float32)
    dy = y - centre_line[:, 1].astype(np.float32)
    texture = smooth_noise(rng, grid, 7.0)
    coarse = smooth_noise(rng, grid, 22.0)

    image = np.full(grid.shape, HU["fat"], np.float32) + 9 * texture
    neck = region == "cervical"
    skin_back = -posterior - rng.uniform(*((6, 16) if neck else (12, 32)))
    curve = (dx / (95 if neck else 170)) ** 2 * 30

    # Paraspinal muscle with fatty streaks on both sides of the spinous processes; fascia and fat behind it.
    spread = rng.uniform(22, 30) * (0.75 if neck else 1.0)
    depth_of_muscle = -posterior * 0.55
    erector = np.hypot((np.abs(dx) - spread) / (spread * 0.95), (dy - depth_of_muscle) / (posterior * 0.50)) - 1
    streak = HU["muscle"] - np.clip(texture * 45 - rng.uniform(20, 55), 0, 130) + 4 * coarse
    blend(image, streak, erector * 18, 2 * voxel)
    # Between the spinous processes: ligament and small muscles, darker than muscle.
    blend(image, 20 + 28 * coarse, np.maximum(np.abs(dx) - 6, np.abs(dy - depth_of_muscle) - posterior * 0.42), 3.0)

    lung_fraction = (region == "thoracic") * 1.0 + (region == "thoracolumbar") * 0.5
    if neck:
        blend(image, HU["muscle"] + 14 * texture, np.hypot(dx / 46, (dy - 8) / 30) * 25 - 25, 3.0)
        wall = rng.uniform(13, 17)
        airway_y = wall + rng.uniform(7, 11)
        blend(image, HU["muscle"] - 6 + 12 * coarse, np.hypot(dx / 24, (dy - airway_y - 3) / 18) * 14 - 14, 2.0)
        blend(image, HU["air"], np.hypot(dx / 9, (dy - airway_y) / (6.5 + 1.5 * coarse)) * 7 - 7, voxel)
        front_skin = airway_y + rng.uniform(28, 42)
        blend(image, HU["air"], front_skin - dy - curve * 0.7, voxel)
    else:
        # Retroperitoneum or mediastinum in front: organs of soft tissue between sheets of fat.
        organ = HU["muscle"] - 12 + 6 * texture + 10 * coarse
        blend(image, organ, 34 - dy + 14 * coarse + np.abs(dx) * 0.12, 5.0)
        if lung_fraction < 1:
            loops = np.abs(coarse) * 16 - 5 + np.clip(52 - dy, 0, 60)
            blend(image, HU["bowel"] + 25 * texture, loops, 3.0)
            gas = 1.15 - smooth_noise(rng, grid, 26.0) + np.clip(58 - dy, 0, 60) * 0.2
            blend(image, HU["air"] + 20, gas * 9, voxel)
            psoas = np.hypot((np.abs(dx) - 33) / 13, (dy + 2) / 17) * 14 - 14
            fade = np.clip((z - float(z.max()) + 70) / 12, 0, None)
            blend(image, HU["muscle"] + 5 * texture, psoas + fade, voxel * 1.5)
        if lung_fraction > 0:
            base = float(z.min()) + (1 - lung_fraction) * rng.uniform(0.9, 1.1) * float(z.max() - z.min())
            medial = 20 + np.clip(dy - 8, 0, 24) * 0.35 + 5 * coarse
            lung = np.maximum(medial - np.abs(dx), -dy - 34 + np.abs(dx) * 0.25)
            lung = np.maximum(lung, base + 0.18 * (dy + 20) + 9 * coarse - z)
            vessels = np.clip(smooth_noise(rng, grid, 5.0) - 1.7, 0, 1) * 700
            blend(image, HU["lung"] + 25 * texture + vessels, lung, voxel)
        sway = 4 * np.sin(z / rng.uniform(28, 45) + rng.uniform(0, 6))
        calcium = np.clip(smooth_noise(rng, grid, 6.0) - 1.6, 0, 1) * 900 * int(rng.integers(0, 2))
        for side, radius in ((-1.0, rng.uniform(9, 12.5)), (1.0, rng.uniform(8, 11))):
            centre_y = 27 + 3 * side * lung_fraction
            tube = np.hypot(dx - side * 12 - sway, (dy - centre_y) * (1.0 if side < 0 else 1.25)) - radius
            ring = np.clip(1 - np.abs(tube) / 1.8, 0, 1) * calcium if side < 0 else 0.0
            blend(image, HU["blood"] + contrast * (1.0 if side < 0 else 0.75) + 4 * texture + ring, tube, voxel)

    back_air = dy - skin_back - curve
    blend(image, -20.0, np.abs(back_air) - 1.1, voxel)
    blend(image, HU["air"], back_air, voxel)
    # Patient table.
    if rng.random() < 0.7:
        top = skin_back - rng.uniform(3, 9)
        blend(image, -350.0, np.abs(dy - centre_line[:, 1].mean() + centre_line[:, 1] - top) - 1.2, voxel)
    return image


def perivertebral_muscle(rng: np.random.Generator, image: Array, grid: Grid, distance: Array, behind: Array) -> None:
    """Draw the muscle that lies on the arches of the vertebrae in place, with more or less fat in it; air and lung stay.

    Args:
        rng: random number generator.
        image: (X, Y, Z) HU.
        grid: grid of the image.
        distance: (X, Y, Z) distance in mm to the bones.
        behind: distance in mm behind the bodies, broadcastable to (X, Y, Z).
    """
    depth = np.clip(rng.uniform(4, 25) + 4 * smooth_noise(rng, grid, 30.0), 2, None)
    fat = np.clip(smooth_noise(rng, grid, 5.0) * 45 - rng.uniform(20, 90), 0, 130)
    outside = np.maximum(np.maximum(distance - depth, -behind), (AIR_BELOW_HU - image) / 50)
    blend(image, HU["muscle"] + rng.normal(0, 8) - fat, outside, 2 * grid.voxel)


def thecal_sac(image: Array, grid: Grid, canal_line: NDArray[np.float64], radius: float, cord_radius: float) -> None:
    """Draw epidural fat, cerebrospinal fluid and the spinal cord in place.

    Args:
        image: (X, Y, Z) HU.
        grid: grid of the image.
        canal_line: (Z, 2) x and y in mm of the spinal canal in every axial slice.
        radius: radius of the canal in mm.
        cord_radius: radius of the cord in mm, 0 below the conus.
    """
    voxel = grid.voxel
    x, y, _ = grid.coordinates()
    canal_line = canal_line.astype(np.float32)
    r = np.hypot((x - canal_line[:, 0]) / 1.2, y - canal_line[:, 1])
    blend(image, -35.0, r - radius, voxel)
    blend(image, HU["fluid"] + 8, r - radius * 0.82, voxel)
    if cord_radius > 0:
        blend(image, HU["cord"], r - cord_radius, voxel)
