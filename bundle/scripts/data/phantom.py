# SPDX-License-Identifier: Apache-2.0
"""A procedural spine CT: curved spine, cortical shell and trabecular interior, soft tissue, noise, partial volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from . import degeneration
from .anatomy import LABELS, REGIONS
from .bones import Age, draw_discs, draw_ribs, draw_vertebra
from .posture import aged, choose_collapses, individual, mean_dish, place
from .relief import Collapse
from .soft_tissue import smooth_noise, thecal_sac, tissue_background
from .variation import Variation
from .vertebra import Grid


@dataclass
class SpineScan:
    """A CT with vertebra labels: ``image`` in HU (int16), ``labels`` in VerSe's convention (uint8), both (R, A, S)."""

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    fractures: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class ScanStyle:
    """How a scan looks; drawn per case by ``ScanStyle.random``.

    Attributes:
        spacing: voxel size in mm along (R, A, S).
        field_of_view: extent in mm along (R, A, S).
        trabecular: mean HU of cancellous bone.
        cortical: HU of compact bone.
        noise: standard deviation of the noise in HU.
        sharpness: blur of the reconstruction kernel in mm (standard deviation).
        contrast: HU that contrast medium adds to vessels.
        variation: what else differs from a healthy spine; None for nothing.
    """

    spacing: tuple[float, float, float] = (1.5, 1.0, 1.0)
    field_of_view: tuple[float, float, float] = (84.0, 150.0, 200.0)
    trabecular: float = 160.0
    cortical: float = 850.0
    noise: float = 18.0
    sharpness: float = 0.5
    contrast: float = 0.0
    variation: Variation | None = None

    @staticmethod
    def random(rng: np.random.Generator, region: str) -> ScanStyle:
        """Draw a style: sagittal or axial reconstruction, old or young bone, with or without contrast medium."""
        in_plane = float(rng.uniform(0.8, 1.1))
        if rng.random() < 0.6:
            spacing = (float(rng.choice([1.0, 1.5, 2.0, 3.0])), in_plane, in_plane)
        else:
            spacing = (in_plane, in_plane, float(rng.choice([0.8, 1.0, 1.25, 1.5])))
        depth, length = (118.0, 150.0) if region == "cervical" else (150.0, 205.0)
        return ScanStyle(
            spacing=spacing,
            field_of_view=(
                float(rng.uniform(70, 92)),
                depth * rng.uniform(0.93, 1.07),
                length * rng.uniform(0.93, 1.07),
            ),
            trabecular=float(np.clip(rng.normal(155, 45), 70, 260)),
            cortical=float(rng.uniform(650, 1050)),
            noise=float(rng.uniform(8, 32)),
            sharpness=float(rng.uniform(0.3, 0.8)),
            contrast=float(rng.choice([0.0, 110.0, 170.0])),
        )


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
