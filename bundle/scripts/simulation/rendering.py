# SPDX-License-Identifier: Apache-2.0
"""A CT rendered around real vertebra masks: real anatomy, random tissue. For masks whose CT is missing or may not be used."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.vertebrae import LABELS, LEVELS, region_of, spine_order
from ..postprocessing.vertebra_frame import FrameError, body_centre
from .bone_surface import THIN, BoneSurface
from .phantom.anatomy import SIZES
from .phantom.bones import bone_hu, trabecular_texture
from .phantom.degeneration import change_tissue_contrast
from .phantom.image_chain import reconstruct, trabecular_streaks
from .phantom.shapes import vertebral_body
from .phantom.soft_tissue import CORD_RADIUS_MM, HU, blend, perivertebral_muscle, smooth_noise, thecal_sac, tissue_background
from .phantom.vertebra import Grid, Pose
from .spine_scan import SpineScan, to_hu
from .style import ScanStyle, Variation

PADDING_MM = 12.0  # tissue around masks that fill their grid
MIN_BODY_RADIUS_MM = 4.0
MAX_BODY_DISTANCE_MM = 55  # between neighbours; more means that a vertebra is missing in between
CORTEX_MM = 0.6
SIMILAR = {"C1": "C3", "C2": "C3", "T13": "T12", "L6": "L5"}  # levels whose sizes are those of another


def _signed_distance(mask: NDArray[np.bool_], spacing: NDArray) -> NDArray[np.float32]:
    """Distance to the surface of a mask in mm, negative inside, smoothed over half a voxel."""
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    half = spacing.min() / 2
    distance = np.where(mask, half - inside, outside - half)
    return ndimage.gaussian_filter(distance, 0.5 / spacing).astype(np.float32)


def _body_centres(labels: NDArray[np.uint8], affine: NDArray) -> dict[int, NDArray]:
    """World centres in mm of the vertebral bodies in the mask, lowest first."""
    centres = {}
    for vertebra in reversed(spine_order(labels)):
        try:
            centre, _, radius = body_centre(labels, affine, vertebra)
        except FrameError:
            continue
        if radius > MIN_BODY_RADIUS_MM:
            centres[vertebra] = centre
    return centres


def _draw_discs(rng: np.random.Generator, image: NDArray, grid: Grid, bodies: dict[int, NDArray]) -> None:
    """Draw discs between the centres of neighbours in place, before the bones that cover their margins."""
    for (label, lower), (_, upper) in itertools.pairwise(bodies.items()):
        distance = float(np.linalg.norm(upper - lower))
        up = (upper - lower) / max(distance, 1e-6)
        if distance > MAX_BODY_DISTANCE_MM:
            continue
        front = np.array([0.0, 1.0, 0.0]) - up * up[1]
        front /= np.linalg.norm(front)
        size = SIZES[SIMILAR.get(LEVELS[label], LEVELS[label])]
        pose = Pose((lower + upper) / 2, np.stack([np.cross(front, up), front, up], axis=1))
        box = grid.box(pose.centre - 40, pose.centre + 40)
        if box is not None:
            disc = vertebral_body(grid.local(box, pose), size.width * 0.95, size.depth * 0.95, 0.8 * distance, 0.0, 0.05)
            blend(image[box], HU["disc"] + rng.normal(0, 12), disc, grid.voxel)


def render_ct(
    labels: NDArray[np.uint8],
    affine: NDArray,
    style: ScanStyle,
    seed: int,
    draw_bones: Callable[[np.random.Generator, Grid, NDArray], None] | None = None,
    surface: BoneSurface = THIN,
) -> SpineScan:
    """Render a CT around a vertebra mask.

    Args:
        labels: (X, Y, Z) VerSe labels along (R, A, S).
        affine: (4, 4) voxel to world in mm, diagonal except for the translation.
        style: appearance of the scan; its spacing and field of view are not used.
        seed: seed of the scan.
        draw_bones: function of a random number generator, the grid and the image (X, Y, Z) in HU, that draws bones without label in
            place, such as ribs, before the vertebrae.
        surface: where the cortex lies beside the surface of the mask, and the muscle on the arches.

    Returns:
        Scan on the grid of the mask, padded by ``PADDING_MM`` along R and A.

    Raises:
        FrameError: when the mask contains no vertebral body.
    """
    rng, variation_rng = np.random.default_rng([seed, 21]), np.random.default_rng([seed, 22])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    padding = np.ceil(PADDING_MM / spacing).astype(int) * [1, 1, 0]
    labels = np.pad(labels, [(int(p), int(p)) for p in padding])
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ padding
    grid = Grid(affine[:3, 3].copy(), spacing, labels.shape)  # type: ignore[arg-type]
    bodies = _body_centres(labels, affine)
    if not bodies:
        raise FrameError("the mask shows no vertebral body")
    levels = [SIMILAR.get(LEVELS[v], LEVELS[v]) for v in bodies]
    regions = {region_of(level) for level in levels}
    region = "thoracolumbar" if {"thoracic", "lumbar"} <= regions else sorted(regions)[0]
    sizes = [SIZES[level] for level in levels]

    def line(points: NDArray) -> NDArray:
        return grid.line(points[np.argsort(points[:, 2])])

    centres = np.array(list(bodies.values()))
    posterior = float(np.mean([s.depth / 2 + s.canal + s.process * 0.9 for s in sizes]))
    image = tissue_background(rng, grid, line(centres), region, style.contrast, posterior)
    walls = line(centres - np.array([[0.0, s.depth / 2, 0.0] for s in sizes]))[:, 1]
    behind = walls.astype(np.float32) - grid.coordinates()[1]  # mm behind the bodies, (1, Y, Z)
    if surface.muscle:
        perivertebral_muscle(np.random.default_rng([seed, 25]), image, grid, _signed_distance(labels > 0, spacing), behind)
    canal = centres - np.array([[0.0, (s.depth + s.canal) / 2, 0.0] for s in sizes])
    canal_radius = 0.47 * float(np.mean([s.canal for s in sizes]))
    thecal_sac(image, grid, line(canal), canal_radius, 0.0 if region == "lumbar" else CORD_RADIUS_MM)
    _draw_discs(rng, image, grid, bodies)
    variation = style.variation
    if variation is not None:
        image = change_tissue_contrast(variation_rng, image, grid, variation)

    if draw_bones is not None:
        draw_bones(np.random.default_rng([seed, 24]), grid, image)
    texture = smooth_noise(rng, grid, 3.0)
    streaks = None if variation is None else trabecular_streaks(variation_rng, grid, variation.streaks)
    cortex = CORTEX_MM * (variation or Variation()).cortex + surface.arch_cortex_mm * np.clip(behind / 4, 0, 1)
    for vertebra, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or vertebra not in LEVELS:
            continue
        wide = tuple(slice(max(b.start - 4, 0), b.stop + 4) for b in box)
        distance = _signed_distance(labels[wide] == vertebra, spacing) + surface.margin_mm
        cancellous = style.trabecular * rng.normal(1, 0.06) + trabecular_texture(style, texture[wide])
        if streaks is not None:
            cancellous = cancellous + streaks[wide]
        blend(image[wide], bone_hu(distance, cancellous, style, cortex[:, wide[1], wide[2]]), distance, grid.voxel)

    image = reconstruct(rng, image, grid, style)
    return SpineScan(to_hu(image), np.where(np.isin(labels, list(LABELS.values())), labels, 0).astype(np.uint8), affine)
