# SPDX-License-Identifier: Apache-2.0
"""A CT drawn around real vertebra masks: true shapes, random tissue. For masks whose CT is missing or may not be used."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.vertebrae import LABELS, LEVELS, region_of, spine_order
from ..postprocessing.vertebra_frame import FrameError, body_centre
from .phantom import degeneration
from .phantom.anatomy import SIZES
from .phantom.shapes import vertebral_body
from .phantom.soft_tissue import HU, blend, smooth_noise, thecal_sac, tissue_background
from .phantom.vertebra import Grid, Pose
from .spine_scan import SpineScan
from .style import ScanStyle

MARGIN = 12.0  # mm of tissue added around masks that fill their grid


def _signed_distance(mask: NDArray[np.bool_], spacing: NDArray) -> NDArray[np.float32]:
    """Distance to the surface of a mask in mm, negative inside, the voxel staircase smoothed away."""
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    half = spacing.min() / 2
    distance = np.where(mask, half - inside, outside - half)
    return ndimage.gaussian_filter(distance, 0.5 / spacing).astype(np.float32)


def _bodies(labels: NDArray[np.uint8], affine: NDArray) -> dict[int, tuple[NDArray, float]]:
    """World centre of the body and half its thickness in mm, of every vertebra that shows one, from feet to head."""
    found = {}
    for vertebra in reversed(spine_order(labels)):
        try:
            centre, _, radius = body_centre(labels, affine, vertebra)
        except FrameError:
            continue
        if radius > 4.0:
            found[vertebra] = (centre, radius)
    return found


def _discs(rng: np.random.Generator, image: NDArray, grid: Grid, bodies: dict[int, tuple[NDArray, float]]) -> None:
    """Discs in place: a drum between the centres of neighbours. Bone drawn afterwards covers what reaches into it."""
    order = list(bodies)
    for lower, upper in itertools.pairwise(order):
        a, b = bodies[lower][0], bodies[upper][0]
        up = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
        if np.linalg.norm(b - a) > 55:  # a vertebra is missing in between
            continue
        front = np.array([0.0, 1.0, 0.0]) - up * up[1]
        front /= np.linalg.norm(front)
        size = SIZES.get(LEVELS[lower], SIZES["C3"])
        pose = Pose((a + b) / 2, np.stack([np.cross(front, up), front, up], axis=1))
        box = grid.box(pose.centre - 40, pose.centre + 40)
        if box is not None:
            height = 0.8 * float(np.linalg.norm(b - a))
            disc = vertebral_body(grid.local(box, pose), size.width * 0.95, size.depth * 0.95, height, 0.0, 0.05)
            blend(image[box], HU["disc"] + rng.normal(0, 12), disc, float(grid.spacing.mean()))


def render_ct(labels: NDArray[np.uint8], affine: NDArray, style: ScanStyle, seed: int) -> SpineScan:
    """Draw a CT around a vertebra mask.

    Args:
        labels: VerSe labels (R, A, S), axes in that order; turn other orientations first.
        affine: voxel to world in mm, diagonal up to a shift.
        style: how the scan looks; its spacing and field of view are those of the mask.
        seed: the same seed gives the same scan.

    Raises:
        FrameError: when the mask shows no vertebral body.
    """
    rng, extra = np.random.default_rng([seed, 21]), np.random.default_rng([seed, 22])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    pad = np.ceil(MARGIN / spacing).astype(int)
    labels = np.pad(labels, [(int(p), int(p)) for p in (pad[0], pad[1], 0)])
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array([pad[0], pad[1], 0])
    grid = Grid(affine[:3, 3].copy(), spacing, labels.shape)  # type: ignore[arg-type]
    bodies = _bodies(labels, affine)
    if not bodies:
        raise FrameError("the mask shows no vertebral body")
    names = [LEVELS[v] if LEVELS[v] in SIZES else "L5" for v in bodies]
    centres = np.array([c for c, _ in bodies.values()])
    regions = {region_of(n) for n in names}
    region = "thoracolumbar" if {"thoracic", "lumbar"} <= regions else sorted(regions)[0]
    sizes = [SIZES[n] for n in names]

    def line(points: NDArray) -> NDArray:
        z = grid.origin[2] + spacing[2] * np.arange(grid.shape[2])
        points = points[np.argsort(points[:, 2])]
        return np.stack([np.interp(z, points[:, 2], points[:, i]) for i in range(2)], axis=1)

    posterior = float(np.mean([s.depth / 2 + s.canal + s.process * 0.9 for s in sizes]))
    image = tissue_background(rng, grid, line(centres), region, style.contrast, posterior)
    canal = centres - np.array([[0.0, (s.depth + s.canal) / 2, 0.0] for s in sizes])
    thecal_sac(
        image, grid, line(canal), 0.47 * float(np.mean([s.canal for s in sizes])), 0.0 if region == "lumbar" else 4.2
    )
    _discs(rng, image, grid, bodies)
    variation = style.variation
    if variation is not None:
        image = degeneration.change_tissue(extra, image, grid, variation)

    texture = smooth_noise(rng, grid, 3.0)
    streaks = 0.0 if variation is None else degeneration.trabecular_streaks(extra, grid, variation.streaks)
    shell = 0.6 * (1.0 if variation is None else variation.shell)
    for vertebra, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or vertebra not in LEVELS:
            continue
        wide = tuple(slice(max(b.start - 4, 0), b.stop + 4) for b in box)
        distance = _signed_distance(labels[wide] == vertebra, spacing)
        cancellous = style.trabecular * rng.normal(1, 0.06) + (28 + 0.12 * style.trabecular) * texture[wide]
        cancellous = cancellous + (streaks[wide] if isinstance(streaks, np.ndarray) else streaks)
        compact = np.clip((distance + shell) / 0.7 + 0.5, 0, 1)
        blend(image[wide], cancellous + (style.cortical - cancellous) * compact, distance, float(spacing.mean()))

    image = ndimage.gaussian_filter(image, sigma=style.sharpness / spacing, mode="nearest")
    if variation is not None and variation.overshoot:
        image = degeneration.sharpen(image, grid, variation.overshoot)
    noise = ndimage.gaussian_filter(rng.standard_normal(grid.shape, dtype=np.float32), 0.55 / spacing, mode="wrap")
    image = image + noise * (style.noise / max(float(noise.std()), 1e-6))
    known = np.where(np.isin(labels, list(LABELS.values())), labels, 0).astype(np.uint8)
    return SpineScan(np.clip(np.round(image), -1024, 3071).astype(np.int16), known, affine)
