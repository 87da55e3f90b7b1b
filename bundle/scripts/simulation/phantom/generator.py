# SPDX-License-Identifier: Apache-2.0
"""A procedural spine CT: curved spine, cortical shell and trabecular interior, soft tissue, noise, partial volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ...core.vertebrae import LABELS
from ..spine_scan import SpineScan
from ..style import ScanStyle
from . import degeneration
from .anatomy import REGIONS
from .bones import Age, draw_discs, draw_ribs, draw_vertebra
from .endplates import Collapse
from .posture import aged, choose_collapses, individual, mean_dish, place
from .soft_tissue import smooth_noise, thecal_sac, tissue_background
from .vertebra import Grid


def _line(grid: Grid, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate (n, 3) points, lowest first, to x and y at every height of the grid: (grid.shape[2], 2)."""
    z = grid.origin[2] + grid.spacing[2] * np.arange(grid.shape[2])
    return np.stack([np.interp(z, points[:, 2], points[:, i]) for i in range(2)], axis=1)


def make_phantom(
    seed: int,
    region: str = "thoracolumbar",
    style: ScanStyle | None = None,
    collapses: Sequence[tuple[str, int]] = (),
) -> SpineScan:
    """Make one spine CT.

    Args:
        seed: the same seed gives the same scan on every machine.
        region: "cervical", "thoracic", "thoracolumbar" or "lumbar".
        style: how the scan looks; drawn from the seed when None.
        collapses: shape and Genant grade of fractures that are drawn with the spine, which leans and sinks with them; they go to
            vertebrae in view, as many as there are. Only for a style with a ``variation``.

    Raises:
        ValueError: when the region is unknown.
    """
    if region not in REGIONS:
        raise ValueError(f"make_phantom: region={region!r}; give one of {', '.join(REGIONS)}.")
    rng = np.random.default_rng([seed, sorted(REGIONS).index(region)])
    style = style or ScanStyle.random(rng, region)
    spacing, extent = np.array(style.spacing), np.array(style.field_of_view)
    shape = tuple(int(n) for n in np.maximum(np.round(extent / spacing), 8))
    grid = Grid(-spacing * (np.array(shape) - 1) / 2, spacing, shape)  # type: ignore[arg-type]

    levels = REGIONS[region]
    scale = float(rng.normal(1.0, 0.05))
    sizes = {level: individual(rng, level, scale) for level in levels}
    variation, age, drawn = style.variation, None, {}
    # A generator of its own for what differs from a healthy spine, so that healthy phantoms stay what they are.
    extra = np.random.default_rng([seed, 5])
    if variation is not None:
        sizes = {v: aged(extra, size, variation) for v, size in sizes.items()}
        before = rng.bit_generator.state
        drawn = choose_collapses(extra, collapses, place(rng, levels, sizes, style, {}), sizes, style)
        rng.bit_generator.state = before
        age = Age(extra, variation, degeneration.trabecular_streaks(extra, grid, variation.streaks))
    poses = place(rng, levels, sizes, style, drawn)
    centres = np.array([p.centre for p in poses.values()])
    posterior = float(np.mean([sizes[v].depth / 2 + sizes[v].canal + sizes[v].process * 0.9 for v in levels]))

    line = _line(grid, centres)
    image = tissue_background(rng, grid, line, region, style.contrast, posterior)
    canal = np.array([poses[v].centre - poses[v].axes[:, 1] * (sizes[v].depth + sizes[v].canal) / 2 for v in levels])
    cord = 0.0 if region == "lumbar" else 4.2
    thecal_sac(
        image,
        grid,
        _line(grid, canal),
        radius=0.47 * float(np.mean([sizes[v].canal for v in levels])),
        cord_radius=cord,
    )
    texture = smooth_noise(rng, grid, 3.0)
    draw_discs(rng, grid, levels, poses, sizes, image, texture, age, drawn)
    if variation is not None:
        image = degeneration.change_tissue(extra, image, grid, variation)
        degeneration.clutter(extra, image, grid, line, variation.clutter)
    labels = np.zeros(grid.shape, np.uint8)
    nearest = np.full(grid.shape, np.inf, np.float32)
    draw_ribs(rng, grid, poses, sizes, image)
    for level in levels:
        draw_vertebra(
            rng, grid, poses[level], level, sizes[level], style, image, labels, nearest, texture, age, drawn.get(level)
        )
    if variation is not None and variation.screws:
        held = [str(v) for v in extra.permutation([v for v in levels if v != "S1"])[: variation.screws]]
        degeneration.screws(extra, image, grid, poses, sizes, held)

    image = gaussian_filter(image, sigma=style.sharpness / spacing, mode="nearest")
    if variation is not None and variation.overshoot:
        image = degeneration.sharpen(image, grid, variation.overshoot)
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, sigma=0.55 / spacing, mode="wrap")
    image += noise * (style.noise / max(float(noise.std()), 1e-6))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = grid.origin + rng.uniform(-60, 60, 3)
    fractures = [
        _record(level, c, sizes[level].height) for level, c in drawn.items() if np.any(labels == LABELS[level])
    ]
    return SpineScan(np.clip(np.round(image), -1024, 3071).astype(np.int16), labels, affine, fractures)


def _record(level: str, collapse: Collapse, height: float) -> dict:
    losses = collapse.losses(height, mean_dish(level))
    return {
        "label": LABELS[level],
        "level": level,
        "shape": collapse.shape,
        "grade": collapse.grade,
        "measured_grade": collapse.grade,
        **{f"loss_{name}": round(value, 4) for name, value in losses.items()},
        "density": collapse.density,
    }
