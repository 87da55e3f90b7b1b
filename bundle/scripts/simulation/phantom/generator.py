# SPDX-License-Identifier: Apache-2.0
"""A procedural spine CT: curved spine, cortical and cancellous bone, soft tissue, partial volume, noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.vertebrae import LABELS
from ..spine_scan import SpineScan, to_hu
from ..style import ScanStyle
from .anatomy import REGIONS
from .bone_lesions import draw_lesions
from .bones import draw_discs, draw_ribs, draw_vertebra
from .degeneration import AgeingParameters, change_tissue_contrast, distractor_structures, pedicle_screws
from .endplates import Collapse
from .image_chain import reconstruct, thick_slices, trabecular_streaks
from .negatives import VertebralNegatives
from .posture import apply_ageing, mean_concavity, sample_collapses, sample_vertebra_size, stack_vertebrae
from .skeleton import draw_skeleton
from .soft_tissue import CORD_RADIUS_MM, smooth_noise, thecal_sac, tissue_background
from .surroundings import Surroundings, draw_surroundings
from .vertebra import Grid


def make_phantom(
    seed: int, region: str = "thoracolumbar", style: ScanStyle | None = None, collapses: Sequence[tuple[str, int]] = ()
) -> SpineScan:
    """Make one spine CT.

    Args:
        seed: seed of the scan; the same on every machine.
        region: "cervical", "thoracic", "thoracolumbar" or "lumbar".
        style: appearance of the scan; sampled when None.
        collapses: shape and Genant grade of fractures that are modelled in the geometry of the spine, which sinks and tilts above
            them; those beyond the number of vertebrae in view are dropped. Only for a style with a ``variation``.

    Returns:
        Scan along (R, A, S) whose ``fractures`` are the collapses in view.

    Raises:
        ValueError: when the region is unknown.
    """
    if region not in REGIONS:
        raise ValueError(f"make_phantom: region={region!r} must be one of {', '.join(REGIONS)}.")
    rng = np.random.default_rng([seed, sorted(REGIONS).index(region)])
    style = style or ScanStyle.random(rng, region)
    spacing, extent = np.array(style.spacing), np.array(style.field_of_view)
    thick_axis = int(np.argmax(spacing))
    if style.slab > 1:
        spacing[thick_axis] /= style.slab
    shape = tuple(int(n) for n in np.maximum(np.round(extent / spacing), 8))
    if style.slab > 1:  # whole slabs
        shape = tuple(n - n % style.slab if k == thick_axis else n for k, n in enumerate(shape))
    grid = Grid(-spacing * (np.array(shape) - 1) / 2, spacing, shape)  # type: ignore[arg-type]

    levels = REGIONS[region]
    scale = float(rng.normal(1.0, 0.05))
    sizes = {level: sample_vertebra_size(rng, level, scale) for level in levels}
    variation = style.variation
    ageing: AgeingParameters | None = None
    collapsed: dict[str, Collapse] = {}
    # A separate generator, so that the healthy part of a phantom does not depend on the variation.
    variation_rng = np.random.default_rng([seed, 5])
    if variation is not None:
        sizes = {v: apply_ageing(variation_rng, size, variation) for v, size in sizes.items()}
        state = rng.bit_generator.state
        intact = stack_vertebrae(rng, levels, sizes, style, {})
        collapsed = sample_collapses(variation_rng, collapses, intact, sizes, style)
        rng.bit_generator.state = state
        streaks = trabecular_streaks(variation_rng, grid, variation.streaks)
        ageing = AgeingParameters(variation_rng, variation, streaks)
    poses = stack_vertebrae(rng, levels, sizes, style, collapsed)
    negatives = variation.negatives if variation is not None else None
    if negatives is not None and ageing is not None:
        visible = [v for v in levels if abs(poses[v].centre[2]) < extent[2] / 2]
        ageing.negatives = VertebralNegatives.assign(seed, negatives, visible, collapsed)

    line = grid.line(np.array([p.centre for p in poses.values()]))
    posterior = float(np.mean([sizes[v].depth / 2 + sizes[v].canal + sizes[v].process * 0.9 for v in levels]))
    image = tissue_background(rng, grid, line, region, style.contrast, posterior)
    canal = np.array([poses[v].centre - poses[v].axes[:, 1] * (sizes[v].depth + sizes[v].canal) / 2 for v in levels])
    canal_radius = 0.47 * float(np.mean([sizes[v].canal for v in levels]))
    thecal_sac(image, grid, grid.line(canal), canal_radius, 0.0 if region == "lumbar" else CORD_RADIUS_MM)
    texture = smooth_noise(rng, grid, 3.0)
    draw_discs(rng, grid, levels, poses, sizes, image, texture, ageing, collapsed)
    if variation is not None:
        image = change_tissue_contrast(variation_rng, image, grid, variation)
        distractor_structures(variation_rng, image, grid, line, variation.distractors)
    if negatives is not None:
        draw_surroundings(Surroundings.of(seed, grid, line, poses, sizes), image, negatives)
    labels = np.zeros(grid.shape, np.uint8)
    nearest = np.full(grid.shape, np.inf, np.float32)
    draw_ribs(rng, grid, poses, sizes, image)
    if negatives is not None:
        draw_skeleton(seed, image, grid, poses, sizes, style, negatives)
    for v in levels:
        draw_vertebra(rng, grid, poses[v], v, sizes[v], style, image, labels, nearest, texture, ageing, collapsed.get(v))
    if ageing is not None and ageing.negatives is not None:
        draw_lesions(ageing.negatives, image, labels, grid, poses, sizes, style)
    if variation is not None and variation.screws:
        bodies = [v for v in levels if v != "S1"]
        screw_levels = [str(v) for v in variation_rng.permutation(bodies)[: variation.screws]]
        pedicle_screws(variation_rng, image, grid, poses, sizes, screw_levels)

    image = reconstruct(rng, image, grid, style)
    if style.slab > 1:
        image, labels, grid = thick_slices(image, labels, grid, style.slab, thick_axis)
    affine = np.diag([*grid.spacing, 1.0])
    affine[:3, 3] = grid.origin + rng.uniform(-60, 60, 3)
    fractures = [_record(v, c, sizes[v].height) for v, c in collapsed.items() if np.any(labels == LABELS[v])]
    return SpineScan(to_hu(image), labels, affine, fractures)


def _record(level: str, collapse: Collapse, height: float) -> dict:
    losses = collapse.losses(height, mean_concavity(level))
    return {
        "label": LABELS[level],
        "level": level,
        "shape": collapse.shape,
        "grade": collapse.grade,
        "measured_grade": collapse.grade,
        **{f"loss_{name}": round(value, 4) for name, value in losses.items()},
        "density": collapse.density,
    }
