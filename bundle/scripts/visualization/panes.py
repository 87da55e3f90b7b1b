# SPDX-License-Identifier: Apache-2.0
"""Title, directions and scale of a pane: plane and position of the slice in mm, R, L, A, P, S, I at its edges, and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PLANES = ("sagittal", "coronal", "axial")  # at right angles to R, A, S
# Letters at the left, right, upper and lower edge of a plane as ``show_slice`` draws it.
EDGES = {"sagittal": "APSI", "coronal": "RLSI", "axial": "RLAP"}
DIRECTIONS = ("RL", "AP", "SI")  # along each axis: towards higher and lower coordinates
BARS_MM = (50, 20, 10, 5, 2, 1)
MAX_BAR = 0.4  # of the width of the pane
NEAR = 0.3  # of the extent of a region: its part beside the name
BAR_TOP = 0.14  # of the height of the pane: upper end of the scale bar's text
LINE_HEIGHT = 0.007  # of the height of a pane of about 2.6 inches, per point of the letters
# Okabe and Ito, "Color Universal Design", 2008: distinct with normal vision, protanopia and deuteranopia.
FINDING_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
NOTHING = "no fracture, nothing marked"


def plain(text: str) -> str:
    """Text in which Matplotlib finds no formula: names of files may have dollar signs."""
    return text.replace("$", r"\$")


def finding_colour(number: int) -> str:
    """Colour of a finding, the same in every pane and table; numbers count from 1."""
    return FINDING_COLOURS[(number - 1) % len(FINDING_COLOURS)]


def position_text(axis: int, mm: float) -> str:
    """Position of a slice in the coordinates of the scan, such as "R 12.3 mm" or "L 4.0 mm".

    Args:
        axis: axis at right angles to the slice, 0 for R, 1 for A, 2 for S.
        mm: coordinate along it.
    """
    mm = round(mm, 1) + 0.0
    return f"{DIRECTIONS[axis][0 if mm >= 0 else 1]} {abs(mm):.1f} mm"


def slice_position(affine: NDArray, shape: Sequence[int], axis: int, index: int) -> float:
    """Coordinate (mm) along an axis of the middle of a slice.

    Args:
        affine: voxel (R, A, S) to world (4, 4), mm.
        shape: voxels along R, A, S.
        axis: axis at right angles to the slice.
        index: slice.
    """
    voxel = [(n - 1) / 2 for n in shape]
    voxel[axis] = index
    return float((affine @ [*voxel, 1.0])[axis])


def slice_title(affine: NDArray, shape: Sequence[int], axis: int, index: int) -> str:
    """Plane and position of a slice, such as "sagittal, R 12.3 mm"; arguments as of ``slice_position``."""
    return f"{PLANES[axis]}, {position_text(axis, slice_position(affine, shape, axis, index))}"


def mark_pane(axes, axis: int, title: str = "", size: float = 8.0, colour: str = "white") -> None:
    """Add title, letters of the directions and a scale bar to a pane that ``show_slice`` drew.

    Args:
        axes: matplotlib axes with coordinates in mm, the first from right to left.
        axis: axis at right angles to the plane, 0 sagittal, 1 coronal, 2 axial.
        title: text above; see ``slice_title``.
        size: size of the letters in points.
        colour: colour of the title, for the ground of the figure.
    """
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2, foreground="black")]
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(EDGES[PLANES[axis]], places, strict=True):
        axes.text(
            x, y, letter, color="white", fontsize=size, fontweight="bold", ha=ha, va=va, transform=axes.transAxes, path_effects=rim
        )
    right, left = sorted(axes.get_xlim())
    low, high = sorted(axes.get_ylim())
    width, height = left - right, high - low
    bar = next((b for b in BARS_MM if b <= MAX_BAR * width), None)
    if bar is not None:
        start, y = left - 0.04 * width, low + 0.06 * height
        line = axes.plot(
            [start, start - bar],
            [y, y],
            color="white",
            linewidth=2.5,
            solid_capstyle="butt",
            path_effects=[withStroke(linewidth=4, foreground="black")],
        )
        line[0].set_gid("scale bar")
        text = f"{bar // 10} cm" if bar >= 10 else f"{bar} mm"
        axes.text(start, y + 0.02 * height, text, color="white", fontsize=0.85 * size, ha="left", va="bottom", path_effects=rim)
        axes.set_xlim(left, right)
        axes.set_ylim(low, high)
    if title:  # a given position spares the search for one above tick labels, of which there are none
        axes.set_title(title, color=colour, fontsize=size, y=1.0)


@dataclass(frozen=True)
class Region:
    """Region with a name in a plane.

    Attributes:
        mask: region (U, V).
        text: name.
        colour: colour of the name.
    """

    mask: NDArray[np.bool_]
    text: str
    colour: str


def spread(targets: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Positions, from the top downwards, near the targets and at least ``gap`` apart.

    Args:
        targets: positions without a gap, the largest first.
        gap: smallest distance of two positions.
    """
    placed = np.array(targets, float)
    for _ in range(200):
        short = gap - (placed[:-1] - placed[1:])
        if not len(short) or short.max() <= 1e-3:
            break
        push = np.where(short > 0, short / 2, 0)
        placed[:-1] += push
        placed[1:] -= push
    return placed


def clear_of(placed: Sequence[float] | NDArray, gap: float, mark: float, bottom: float) -> NDArray[np.float64]:
    """Heights, from the top downwards, moved away from a mark in the middle of an edge and from what stands at its lower end.

    Args:
        placed: heights at least ``gap`` apart, the largest first.
        gap: smallest distance of two heights, and from the mark.
        mark: height of the mark.
        bottom: smallest height, kept where there is room above it.
    """
    heights = np.array(placed, float)
    upper = int(np.count_nonzero(heights >= mark))
    floor = mark + gap
    for i in range(upper - 1, -1, -1):
        heights[i] = max(heights[i], floor)
        floor = heights[i] + gap
    if (mark - bottom) / gap >= len(heights) - upper:
        floor = bottom
        for i in range(len(heights) - 1, upper - 1, -1):
            heights[i] = max(heights[i], floor)
            floor = heights[i] + gap
    ceiling = mark - gap
    for i in range(upper, len(heights)):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    return heights


def label_regions(
    axes, regions: Sequence[Region], spacing: Sequence[float] | NDArray, start: Sequence[float] = (0.0, 0.0), size: float = 8.0
) -> None:
    """Write the names of regions beside them, on the side with more room, without overlap; empty regions are skipped.

    Names stay above or below the letters of the directions and above the scale bar, which stand at the edges.

    Args:
        axes: matplotlib axes, see ``mark_pane``.
        regions: regions in the plane.
        spacing: pixel size along U and V in mm.
        start: coordinates in mm of the border of the first pixel.
        size: size of the letters in points.
    """
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2, foreground="black")]
    sides: dict[str, list[tuple[float, float, Region]]] = {"left": [], "right": []}
    for region in regions:
        if not region.mask.any():
            continue
        u, v = np.nonzero(region.mask)
        # The first axis runs from right to left, so the larger end lies on the left.
        on_right = u.min() >= region.mask.shape[0] - 1 - u.max()
        edge = start[0] + (u.min() - 1.0 if on_right else u.max() + 2.0) * spacing[0]
        # A vertebra is oblique: the name stands at the height of what lies next to it, not of the middle of body and process.
        near = (u - u.min() if on_right else u.max() - u) <= NEAR * np.ptp(u)
        sides["left" if on_right else "right"].append((start[1] + (float(np.mean(v[near])) + 0.5) * spacing[1], edge, region))
    low, high = sorted(axes.get_ylim())
    for alignment, entries in sides.items():
        if not entries:
            continue
        entries.sort(key=lambda e: -e[0])
        gap = LINE_HEIGHT * size * (high - low)
        bottom = low + (BAR_TOP if alignment == "right" else 0.0) * (high - low) + gap / 2
        heights = spread([e[0] for e in entries], gap)
        cleared = clear_of(heights, gap, (low + high) / 2, bottom)
        if low <= cleared.min() and cleared.max() <= high:  # more names than fit may cover a mark, but they stay in the pane
            heights = cleared
        for height, (_, edge, region) in zip(heights, entries, strict=True):
            axes.text(
                edge,
                height,
                region.text,
                color=region.colour,
                fontsize=size,
                fontweight="bold",
                ha=alignment,
                va="center",
                path_effects=rim,
            )
