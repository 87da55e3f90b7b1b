# SPDX-License-Identifier: Apache-2.0
"""A procedural spine CT: curved spine, cortical shell and trabecular interior, soft tissue, noise, partial volume."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .anatomy import LABELS, REGIONS, SIZES, VertebraSize
from .shapes import Array, capsule, vertebral_body
from .soft_tissue import HU, blend, smooth_noise, thecal_sac, tissue_background
from .vertebra import Grid, Pose, vertebra_distance


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
    """

    spacing: tuple[float, float, float] = (1.5, 1.0, 1.0)
    field_of_view: tuple[float, float, float] = (84.0, 150.0, 200.0)
    trabecular: float = 160.0
    cortical: float = 850.0
    noise: float = 18.0
    sharpness: float = 0.5
    contrast: float = 0.0

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


def _individual(rng: np.random.Generator, level: str, scale: float) -> VertebraSize:
    """Sizes of one vertebra of one person: everybody's ``scale`` and a few per cent of its own."""
    mean = SIZES[level]
    own = {n: getattr(mean, n) * scale * rng.normal(1, 0.025) for n in ("width", "depth", "height", "canal")}
    own["disc"] = mean.disc * scale * float(np.clip(rng.normal(0.95, 0.15), 0.5, 1.3))
    own["process"] = mean.process * scale * rng.normal(1, 0.06)
    own["transverse"] = mean.transverse * scale * rng.normal(1, 0.08)
    return replace(mean, **own)


def _place(
    rng: np.random.Generator, levels: tuple[str, ...], sizes: dict[str, VertebraSize], fov: tuple[float, float, float]
) -> dict[str, Pose]:
    """Stack the vertebrae along a curve with the lordosis and kyphosis of the region, centred in the field of view."""
    curvature, lean = rng.uniform(0.55, 1.05), rng.normal(0, 3)
    bend, phase = rng.normal(0, 1.6), rng.uniform(0, 6)
    tilts = {level: curvature * SIZES[level].tilt + lean + rng.normal(0, 1.0) for level in levels}
    if "S1" in levels:
        tilts["S1"] += 8
    position, previous, poses = np.zeros(3), None, {}
    for k, level in enumerate(levels):
        sway = bend * np.sin(0.7 * k + phase)
        pose = Pose.tilted(np.zeros(3), tilts[level], coronal=sway, axial=rng.normal(0, 1.0))
        if previous is not None:
            last, half = poses[previous], sizes[previous].height / 2
            middle = last.axes[:, 2] + pose.axes[:, 2]
            disc = sizes[previous].disc * middle / np.linalg.norm(middle)
            position = last.centre + half * last.axes[:, 2] + disc + sizes[level].height / 2 * pose.axes[:, 2]
        poses[level] = Pose(position, pose.axes)
        previous = level
    centres = np.array([p.centre for p in poses.values()])
    # The spine lies behind the middle of the scan; the lowest vertebra is near the lower border, the top may be cut.
    low = centres[0, 2] - sizes[levels[0]].height * rng.uniform(0.3, 0.9)
    offset = np.array([-centres[:, 0].mean(), -centres[:, 1].mean() - 0.04 * fov[1], -fov[2] / 2 - low])
    return {level: Pose(p.centre + offset, p.axes) for level, p in poses.items()}


def _line(grid: Grid, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate (n, 3) points, lowest first, to x and y at every height of the grid: (grid.shape[2], 2)."""
    z = grid.origin[2] + grid.spacing[2] * np.arange(grid.shape[2])
    return np.stack([np.interp(z, points[:, 2], points[:, i]) for i in range(2)], axis=1)


def _bone_hu(distance: Array, trabeculae: Array, style: ScanStyle, shell: Array | float) -> Array:
    """HU inside bone: compact near the surface, cancellous with its texture inside."""
    compact = np.clip((distance + shell) / 0.7 + 0.5, 0.0, 1.0)
    return trabeculae + (style.cortical - trabeculae) * compact


def _draw_vertebra(
    rng: np.random.Generator,
    grid: Grid,
    pose: Pose,
    level: str,
    size: VertebraSize,
    style: ScanStyle,
    image: Array,
    labels: NDArray[np.uint8],
    nearest: Array,
    texture: Array,
) -> None:
    """Draw one vertebra into ``image`` and ``labels`` in place; ``nearest`` holds the smallest distance drawn so far."""
    concavity = 1.9 if LABELS[level] >= 8 else 1.0
    shape: dict = {
        "concavity": concavity * rng.uniform(0.6, 1.3),
        "waist": rng.uniform(0.05, 0.10),
        "lordosis": {"L5": 0.12, "L4": 0.06, "S1": 0.1}.get(level, -0.02) + rng.normal(0, 0.012),
        "skew": (rng.normal(0, 0.01), rng.normal(0, 0.01)),
    }
    bone = vertebra_distance(grid, pose, level, size, shape)
    if bone.region is None:
        return
    box, distance = bone.region, bone.distance
    points = bone.points
    y, z = points[1], points[2]
    # Posterior elements hold little cancellous bone; the basivertebral vein enters the body from behind.
    arch = np.clip((-size.depth / 2 - y) / 4, 0, 1)
    cancellous = style.trabecular * rng.normal(1, 0.05) + (28 + 0.12 * style.trabecular) * texture[box] + 120 * arch
    vein = np.hypot(z / 2.2, points[0] / 5) + np.clip(y - 0.05 * size.depth, 0, None) / 3
    cancellous -= np.clip(1.3 - vein, 0, 1) * (90 + 0.3 * style.trabecular)
    shell = 0.55 + 0.25 * arch
    voxel = float(grid.spacing.mean())
    inside = distance < voxel
    value = np.where(inside, _bone_hu(distance, cancellous, style, shell), 0)
    mine = inside & (distance < nearest[box])
    blend_weight = np.where(mine, np.clip(0.5 - distance / voxel, 0, 1), 0)
    view = image[box]
    view += (value - view) * blend_weight
    labelled = mine & (distance < 0)
    if level in LABELS and level != "S1":
        labels[box][labelled] = LABELS[level]
    else:
        labels[box][labelled] = 0
    np.minimum(nearest[box], distance, out=nearest[box])


def _draw_discs(
    rng: np.random.Generator,
    grid: Grid,
    levels: tuple[str, ...],
    poses: dict[str, Pose],
    sizes: dict[str, VertebraSize],
    image: Array,
    texture: Array,
) -> None:
    for lower, upper in itertools.pairwise(levels):
        a, b = poses[lower], poses[upper]
        top = a.centre + sizes[lower].height / 2 * a.axes[:, 2]
        bottom = b.centre - sizes[upper].height / 2 * b.axes[:, 2]
        pose = Pose((top + bottom) / 2, (a.axes + b.axes) / 2)
        pose.axes /= np.linalg.norm(pose.axes, axis=0)
        width, depth = min(sizes[lower].width, sizes[upper].width), min(sizes[lower].depth, sizes[upper].depth)
        box = grid.box(pose.centre - width, pose.centre + width)
        if box is None:
            continue
        height = float(np.linalg.norm(bottom - top)) + 5
        disc = vertebral_body(grid.local(box, pose), width * 1.02, depth * 1.03, height, concavity=-0.5, waist=-0.03)
        ring = np.clip(1 + disc / 5, 0, 1) * 22
        blend(image[box], HU["disc"] + rng.normal(0, 8) + ring + 5 * texture[box], disc, float(grid.spacing.mean()))


def _draw_ribs(
    rng: np.random.Generator, grid: Grid, poses: dict[str, Pose], sizes: dict[str, VertebraSize], image: Array
) -> None:
    """Ribs: a chain of capsules from the costovertebral joint outwards, backwards and down. They carry no label."""
    for level, pose in poses.items():
        if not level.startswith("T"):
            continue
        size = sizes[level]
        x0, y0, z0 = size.width / 2 + 2.5, -size.depth / 2 + 5, size.height / 2 - 1
        knots = [(x0, y0, z0), (x0 + 14, y0 - 13, z0 - 1), (x0 + 32, y0 - 20, z0 - 8), (x0 + 58, y0 - 6, z0 - 24)]
        for side in (1.0, -1.0):
            rib = [(x * side, y, z) for x, y, z in knots]
            for start, end in itertools.pairwise(rib):
                ends = np.array([start, end]) @ pose.axes.T + pose.centre
                box = grid.box(ends.min(0) - 9, ends.max(0) + 9)
                if box is None:
                    continue
                bone = capsule(grid.local(box, pose), start, end, (3.4, 3.4), (0.9, 0.9, 1.5))
                value = np.where(bone < -1.6, 190.0, 720.0 + 40 * rng.standard_normal())
                blend(image[box], value, bone, float(grid.spacing.mean()))


def make_phantom(seed: int, region: str = "thoracolumbar", style: ScanStyle | None = None) -> SpineScan:
    """Make one intact spine CT.

    Args:
        seed: the same seed gives the same scan on every machine.
        region: "cervical", "thoracic", "thoracolumbar" or "lumbar".
        style: how the scan looks; drawn from the seed when None.

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
    sizes = {level: _individual(rng, level, scale) for level in levels}
    poses = _place(rng, levels, sizes, style.field_of_view)
    centres = np.array([p.centre for p in poses.values()])
    posterior = float(np.mean([sizes[v].depth / 2 + sizes[v].canal + sizes[v].process * 0.9 for v in levels]))

    image = tissue_background(rng, grid, _line(grid, centres), region, style.contrast, posterior)
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
    _draw_discs(rng, grid, levels, poses, sizes, image, texture)
    labels = np.zeros(grid.shape, np.uint8)
    nearest = np.full(grid.shape, np.inf, np.float32)
    _draw_ribs(rng, grid, poses, sizes, image)
    for level in levels:
        _draw_vertebra(rng, grid, poses[level], level, sizes[level], style, image, labels, nearest, texture)

    image = gaussian_filter(image, sigma=style.sharpness / spacing, mode="nearest")
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, sigma=0.55 / spacing, mode="wrap")
    image += noise * (style.noise / max(float(noise.std()), 1e-6))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = grid.origin + rng.uniform(-60, 60, 3)
    return SpineScan(np.clip(np.round(image), -1024, 3071).astype(np.int16), labels, affine)
