# SPDX-License-Identifier: Apache-2.0
"""Mid-sagittal overview of a spine: numbered, coloured vertebrae on one slice that follows the bodies from side to side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, zoom

from ..core.files import atomic_write
from ..postprocessing.vertebra_record import VertebraRecord
from .panes import BARS_MM, MAX_BAR, plain, position_text, spread
from .slices import BONE_WINDOW
from .vertebra_colours import FRACTURE_MARK, colours_of, short_name
from .viewer_volume import ViewerVolume

SMOOTH_MM = 8.0  # of the course of the slice along S
SLAB_MM = 2.0  # half thickness that is averaged
MM_PER_INCH = 44.0
MAX_HEIGHT_INCH = 11.0
NAMES_INCH = 0.135  # margin for the names, per point of their letters
FONT_PT = (10.0, 15.0)  # smallest and largest letters
FONT_PER_INCH = 3.8  # points per inch of the scan's width, so that letters have 11 px where the picture is 320 px wide
GAP = 1.25  # between two names, in heights of their letters
DPI = 160
MARKS = "vertebrae"  # text of the PNG with the boxes of the vertebrae
FILL = 0.3  # opacity of a vertebra


@dataclass(frozen=True)
class Overview:
    """Curved sagittal slice.

    Attributes:
        hu: HU (A, S) on square pixels.
        numbers: number of the vertebra (A, S).
        pixel: size of a pixel, mm.
        centres: centre of each vertebra in pixels (A, S), by number.
        lateral_mm: range of the slice from side to side, mm.
        sides_mm: coordinates of the slice that lie farthest left and farthest right, mm.
    """

    hu: NDArray[np.float32]
    numbers: NDArray[np.uint8]
    pixel: float
    centres: dict[int, tuple[float, float]]
    lateral_mm: float
    sides_mm: tuple[float, float]


def body_voxels(volume: ViewerVolume, records: Sequence[VertebraRecord]) -> dict[int, NDArray[np.float64]]:
    """Centre of every body in voxels (R, A, S): that of its record, or else of its voxels; vertebrae with neither are left out."""
    centres = {}
    for record in records:
        if np.isfinite(record.centroid_mm).all():
            centres[record.vertebra] = volume.voxel(record.centroid_mm)
        elif (voxels := np.argwhere(volume.numbers == record.vertebra)).size:
            centres[record.vertebra] = np.median(voxels, axis=0)
    return centres


def lateral_course(volume: ViewerVolume, centres: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Position R in voxels of the slice at every voxel along S; the middle of the volume without centres."""
    length, count = volume.hu.shape[2], volume.hu.shape[0]
    if not centres:
        return np.full(length, (count - 1) / 2)
    points = np.array(sorted(centres, key=lambda c: float(c[2])))
    course = np.interp(np.arange(length), points[:, 2], points[:, 0])
    return np.clip(gaussian_filter1d(course, SMOOTH_MM / volume.spacing[2], mode="nearest"), 0, count - 1)


def curved_slice(volume: ViewerVolume, records: Sequence[VertebraRecord]) -> Overview:
    """Slice through the centres of the bodies, averaged over ``SLAB_MM`` on each side, on square pixels."""
    centres = body_voxels(volume, records)
    course = lateral_course(volume, list(centres.values()))
    rows, half = np.arange(len(course)), int(SLAB_MM / volume.spacing[0])
    index = np.rint(course).astype(int)
    planes = [volume.hu[np.clip(index + d, 0, len(volume.hu) - 1), :, rows] for d in range(-half, half + 1)]
    hu = np.stack(planes).mean(axis=0, dtype=np.float32).T  # (A, S)
    numbers = volume.numbers[index, :, rows].T
    pixel = min(volume.spacing[1:])
    factors = [d / pixel for d in volume.spacing[1:]]
    if max(factors) > 1.01:
        hu = zoom(hu, factors, order=1, mode="nearest", grid_mode=True)
        numbers = zoom(numbers, factors, order=0, mode="nearest", grid_mode=True)
    positions = {n: (float((c[1] + 0.5) * factors[0] - 0.5), float((c[2] + 0.5) * factors[1] - 0.5)) for n, c in centres.items()}
    middle = (volume.hu.shape[1] - 1) / 2
    points = np.stack([course, np.full(len(course), middle), rows.astype(float), np.ones(len(course))])
    lateral = (volume.affine @ points)[0]
    sides = float(lateral.min()), float(lateral.max())
    return Overview(hu, numbers, pixel, positions, float(np.ptp(course) * volume.spacing[0]), sides)


def course_text(overview: Overview) -> str:
    """Plane and course of the slice, such as "sagittal, L 3.0 mm to R 4.5 mm"."""
    ends = dict.fromkeys(position_text(0, mm) for mm in overview.sides_mm)
    return f"sagittal, {' to '.join(ends)}"


def _draw_vertebra(axes, mask: NDArray[np.bool_], pixel: float, colour: str, fractured: bool) -> None:
    u, v = ((np.arange(n) + 0.5) * pixel for n in mask.shape)
    if not mask.any() or min(mask.shape) < 2:
        return
    level = mask.T.astype(np.float32)
    fill = axes.contourf(u, v, level, levels=[0.5, 1.5], colors=[colour], alpha=FILL, hatches=["////" if fractured else None])
    fill.set_edgecolor(colour)
    fill.set_linewidth(0)
    if fractured:  # a dark rim keeps the outline visible on bright bone
        axes.contour(u, v, level, levels=[0.5], colors=["black"], linewidths=4.0)
    axes.contour(u, v, level, levels=[0.5], colors=[colour], linewidths=2.4 if fractured else 1.1)


def _draw_names(
    axes, overview: Overview, records: Sequence[VertebraRecord], colours: dict[int, str], inch: float, font: float
) -> None:
    shown = [r for r in records if r.vertebra in overview.centres]
    shown.sort(key=lambda r: -overview.centres[r.vertebra][1])
    mm = overview.pixel
    heights = spread([overview.centres[r.vertebra][1] * mm for r in shown], GAP * font / 72 * inch)
    for record, height in zip(shown, heights, strict=True):
        a, s = ((c + 0.5) * mm for c in overview.centres[record.vertebra])
        # The front lies on the left, so the margin behind the back begins at a negative coordinate.
        elbow, end = -0.05 * inch, -0.2 * inch
        axes.plot([a, elbow, end], [s, height, height], color=colours[record.vertebra], linewidth=1.0, alpha=0.9, clip_on=False)
        marker = "^" if record.fractured else "o"
        axes.plot([a], [s], marker, color=colours[record.vertebra], markersize=5, markeredgecolor="black", markeredgewidth=0.7)
        probability = "" if np.isnan(record.fracture_probability) else f" ({record.fracture_probability:.2f})"
        name = f"{FRACTURE_MARK} {short_name(record)}{probability}" if record.fractured else short_name(record)
        axes.text(end - 0.04 * inch, height, name, color="#8a3c00" if record.fractured else "#1b1f24", fontsize=font,
                  fontweight="bold" if record.fractured else "normal", ha="left", va="center", clip_on=False)  # fmt: skip


def draw_overview(overview: Overview, records: Sequence[VertebraRecord], title: str):
    """Draw the overview.

    Args:
        overview: slice, as ``curved_slice`` returns it.
        records: rows of the vertebrae.
        title: line above.

    Returns:
        A matplotlib figure, and the box of each visible vertebra as fractions of the picture (left, top, width, height), by number.
    """
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    width, height = (n * overview.pixel for n in overview.hu.shape)
    inch = max(MM_PER_INCH, height / MAX_HEIGHT_INCH)  # mm of the scan in an inch of the picture
    font = float(np.clip(FONT_PER_INCH * width / inch, *FONT_PT))
    size = (width / inch + NAMES_INCH * font, height / inch + 0.07 * font)
    figure = Figure(figsize=size, facecolor="white", dpi=DPI)
    box = (0.02 / size[0], 0.028 * font / size[1], width / inch / size[0], height / inch / size[1])
    axes = figure.add_axes(box)
    axes.imshow(
        overview.hu.T, cmap="gray", vmin=BONE_WINDOW[0], vmax=BONE_WINDOW[1], origin="lower", extent=(0, width, 0, height),
        interpolation="bilinear",
    )  # fmt: skip
    colours = colours_of(records)
    for record in sorted(records, key=lambda r: r.fractured):
        _draw_vertebra(axes, overview.numbers == record.vertebra, overview.pixel, colours[record.vertebra], record.fractured)
    axes.set_xlim(width, 0)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    _draw_names(axes, overview, records, colours, inch, font)
    edge, rim = 2.5, [withStroke(linewidth=2, foreground="black")]
    for text, a, s in (
        ("A", width - edge, height / 2),
        ("P", edge, height / 2),
        ("S", width / 2, height - edge),
        ("I", width / 2, edge),
    ):
        ha = {"A": "left", "P": "right"}.get(text, "center")
        va = {"S": "top", "I": "bottom"}.get(text, "center")
        axes.text(a, s, text, color="white", fontsize=0.9 * font, ha=ha, va=va, fontweight="bold", path_effects=rim)
    bar = next((b for b in BARS_MM if b <= MAX_BAR * width), BARS_MM[-1])
    stroke = [withStroke(linewidth=5, foreground="black")]
    axes.plot(
        [width - edge, width - edge - bar], [edge + 2] * 2, color="white", linewidth=3, solid_capstyle="butt", path_effects=stroke
    )
    words = f"{bar // 10} cm" if bar >= 10 else f"{bar} mm"
    axes.text(width - edge, edge + 4, words, color="white", fontsize=0.9 * font, ha="left", va="bottom", path_effects=rim)
    figure.text(0.01, 1 - 0.06 / size[1], plain(title), fontsize=0.9 * font, va="top", color="#1b1f24")
    under = "research use only" if records else "no vertebra found; research use only"
    figure.text(0.01, 0.05 / size[1], under, fontsize=0.8 * font, va="bottom", color="#57606a")
    marks = {}
    for record in records:
        voxels = np.argwhere(overview.numbers == record.vertebra)
        if len(voxels):
            (a0, s0), (a1, s1) = voxels.min(0) * overview.pixel - 2, (voxels.max(0) + 1) * overview.pixel + 2
            left, top = box[0] + box[2] * (1 - a1 / width), 1 - box[1] - box[3] * s1 / height
            marks[record.vertebra] = [
                round(float(x), 4) for x in (left, top, box[2] * (a1 - a0) / width, box[3] * (s1 - s0) / height)
            ]
    return figure, marks


def save_overview(path: Path, volume: ViewerVolume, records: Sequence[VertebraRecord], title: str) -> dict[int, list[float]]:
    """Write the overview as PNG, atomically, and return the boxes of ``draw_overview``, which the file holds too."""
    overview = curved_slice(volume, records)
    figure, marks = draw_overview(overview, records, f"{title}\n{course_text(overview)}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DPI, metadata={MARKS: json.dumps(marks)})
    return marks


def read_marks(path: Path) -> dict[int, list[float]]:
    """Boxes of the vertebrae in an overview, by number; empty for a picture without them."""
    from PIL import Image

    with Image.open(path) as image:
        text = image.info.get(MARKS, "{}")
    return {int(number): box for number, box in json.loads(text).items()}
