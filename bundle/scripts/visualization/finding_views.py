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
from .slices import outline, show_slice

HALF_WIDTH_MM = 95.0  # shown on each side of the centre of a finding
MAX_FINDINGS = 5
PLANES = ("sagittal", "coronal", "axial")


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


def _mask_in_view(mask: NDArray[np.bool_], origin: tuple[int, int, int], shown: list[range], axis: int) -> NDArray[np.bool_]:
    """Plane of a mask, stored in a box at ``origin``, over the voxels shown."""
    view = np.zeros([len(r) for r in shown], bool)
    overlap = [
        range(max(r.start, o), max(min(r.stop, o + n), max(r.start, o))) for r, o, n in zip(shown, origin, mask.shape, strict=True)
    ]
    target = tuple(slice(v.start - r.start, v.stop - r.start) for v, r in zip(overlap, shown, strict=True))
    source = tuple(slice(v.start - o, v.stop - o) for v, o in zip(overlap, origin, strict=True))
    view[target] = mask[source]
    return view.squeeze(axis)


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

    origin = np.array(probabilities.origin)
    rows = [((names or {}).get(n, f"finding {n}"), origin + c) for n, c in _centres(numbers)]
    rows = rows or [("no finding", np.array([n // 2 for n in grid.shape]))]
    figure = Figure(figsize=(9, 3.1 * len(rows) + 0.4), layout="constrained", facecolor="black")
    panels = np.atleast_2d(figure.subplots(len(rows), 3))
    mask = (probabilities.volume > threshold) & (numbers > 0)
    for line, (name, centre) in zip(panels, rows, strict=True):
        for axis, panel in enumerate(line):
            shown = _field_of_view(grid, axis, centre)
            hu = sample(scan.slab, grid, [np.arange(r.start, r.stop) for r in shown]).squeeze(axis)
            spacing = [d for a, d in enumerate(grid.spacing) if a != axis]
            start = [r.start * d for a, (r, d) in enumerate(zip(shown, grid.spacing, strict=True)) if a != axis]
            show_slice(panel, hu, spacing, start=start)
            outline(panel, _mask_in_view(mask, probabilities.origin, shown, axis), spacing, width=1.1, start=start)
            panel.set_title(f"{name}, {PLANES[axis]}", color="white", fontsize=8)
    figure.suptitle(f"{title}   (research use only)", color="white", fontsize=9)
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
