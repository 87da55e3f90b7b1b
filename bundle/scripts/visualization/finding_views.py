# SPDX-License-Identifier: Apache-2.0
"""Sagittal, coronal and axial slices through each finding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ..core.files import atomic_write
from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.working_grid import WorkingGrid
from ..postprocessing.probability_map import Probabilities
from .panes import NOTHING, Region, finding_colour, label_regions, mark_pane, plain, slice_title
from .slices import outline, show_slice

HALF_WIDTH_MM = 95.0  # shown on each side of the centre of a finding
MAX_FINDINGS = 5
MAX_LEGEND = 24  # findings named below the panes


def _centres(numbers: NDArray[np.int32]) -> list[tuple[int, NDArray[np.int64]]]:
    """Numbers of the first findings, and their median voxels in the box."""
    centres: list[tuple[int, NDArray[np.int64]]] = []
    for number, box in enumerate(find_objects(numbers) if numbers.size else (), 1):  # the box of a scan without findings is empty
        if box is None or len(centres) == MAX_FINDINGS:
            continue
        voxels = np.argwhere(numbers[box] == number) + [s.start for s in box]
        centre = voxels[len(voxels) // 2] if len(voxels) < 3 else np.median(voxels, axis=0).astype(int)
        centres.append((number, centre))
    return centres


def _field_of_view(grid: WorkingGrid, axis: int, centre: NDArray[np.int64]) -> list[range]:
    """Working voxels shown along R, A, S in the plane through ``centre`` at right angles to ``axis``."""
    shown = []
    for a, c in enumerate(map(int, centre)):
        half = 0 if a == axis else round(HALF_WIDTH_MM / grid.spacing[a])
        shown.append(range(max(c - half, 0), min(c + half + 1, grid.shape[a])))
    return shown


def _in_view(numbers: NDArray[np.int32], origin: tuple[int, int, int], shown: list[range], axis: int) -> NDArray[np.int32]:
    """Plane of numbers, stored in a box at ``origin``, over the voxels shown."""
    view = np.zeros([len(r) for r in shown], np.int32)
    overlap = [
        range(max(r.start, o), max(min(r.stop, o + n), max(r.start, o)))
        for r, o, n in zip(shown, origin, numbers.shape, strict=True)
    ]
    target = tuple(slice(v.start - r.start, v.stop - r.start) for v, r in zip(overlap, shown, strict=True))
    source = tuple(slice(v.start - o, v.stop - o) for v, o in zip(overlap, origin, strict=True))
    view[target] = numbers[source]
    return view.squeeze(axis)


def findings_note(numbers: NDArray[np.int32], shown: int) -> str:
    """Addition to a title: nothing was marked, or not all findings are shown.

    Args:
        numbers: number of the finding of every voxel, 0 outside; vertebrae keep their numbers, which leave gaps.
        shown: number of findings that are shown.
    """
    found = len(np.unique(numbers[numbers > 0]))
    if not found:
        return f": {NOTHING}"
    return f": the first {shown} of {found} findings" if found > shown else ""


def draw_views(
    scan: Scan,
    grid: WorkingGrid,
    probabilities: Probabilities,
    numbers: NDArray[np.int32],
    threshold: float,
    title: str,
    names: Mapping[int, str] | None = None,
):
    """Draw one row of three planes per finding, at most ``MAX_FINDINGS`` rows, or the middle of a scan without findings.

    Every finding has a colour of its own, and its name stands beside it wherever a plane cuts it.

    Args:
        scan: voxels in HU.
        grid: working grid.
        probabilities: probabilities in a box of the working grid.
        numbers: number of the finding of every voxel of the box, 0 outside.
        threshold: probability above which a voxel is outlined.
        title: line above.
        names: names of the findings by number.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    heading, names, origin = title, names or {}, np.array(probabilities.origin)
    rows = [(number, origin + c) for number, c in _centres(numbers)] or [(0, np.array([n // 2 for n in grid.shape]))]
    figure = Figure(figsize=(9, 3.3 * len(rows) + 0.5), layout="constrained", facecolor="black")
    panels = np.atleast_2d(figure.subplots(len(rows), 3))
    mask, handles = (probabilities.volume > threshold) & (numbers > 0), dict[int, Line2D]()
    for line, (number, centre) in zip(panels, rows, strict=True):
        for axis, panel in enumerate(line):
            shown = _field_of_view(grid, axis, centre)
            hu = sample(scan.slab, grid, [np.arange(r.start, r.stop) for r in shown]).squeeze(axis)
            spacing = [d for a, d in enumerate(grid.spacing) if a != axis]
            start = [r.start * d for a, (r, d) in enumerate(zip(shown, grid.spacing, strict=True)) if a != axis]
            show_slice(panel, hu, spacing, start=start)
            visible = _in_view(np.where(mask, numbers, 0), probabilities.origin, shown, axis)
            regions = []
            for n in np.unique(visible[visible > 0]).tolist():
                colour, name = finding_colour(n), names.get(n, f"finding {n}")
                outline(panel, visible == n, spacing, width=1.4, start=start, colour=colour)
                regions.append(Region(visible == n, name.split(" (")[0], colour))
                handles[n] = Line2D([], [], color=colour, label=name)
            label_regions(panel, regions, spacing, start, 7.0)
            title = slice_title(grid.affine, grid.shape, axis, int(centre[axis]))
            row = f"{names.get(number, f'finding {number}')}: " if number else ""
            mark_pane(panel, axis, f"{row}{title}")
    if handles:
        lines = [handles[n] for n in sorted(handles)][:MAX_LEGEND]
        if len(handles) > MAX_LEGEND:
            lines.append(Line2D([], [], linestyle="none", label=f"and {len(handles) - MAX_LEGEND} more"))
        # The legend takes its height from the panes unless the figure grows by it.
        figure.set_size_inches(9, 3.3 * len(rows) + 0.5 + 0.22 * -(-len(lines) // 6))
        figure.legend(
            handles=lines, loc="outside lower center", ncols=min(len(lines), 6), fontsize=8, labelcolor="white", frameon=False
        )
    figure.suptitle(f"{plain(heading)}{findings_note(numbers, len(rows))}   (research use only)", color="white", fontsize=9)
    return figure


def save_views(
    path: Path,
    scan: Scan,
    grid: WorkingGrid,
    probabilities: Probabilities,
    numbers: NDArray[np.int32],
    threshold: float,
    title: str,
    names: Mapping[int, str] | None = None,
) -> None:
    """Write ``draw_views`` as PNG; it appears under its name only when complete."""
    with atomic_write(path) as temporary:
        draw_views(scan, grid, probabilities, numbers, threshold, title, names).savefig(temporary, dpi=90)
