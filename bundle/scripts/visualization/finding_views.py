# SPDX-License-Identifier: Apache-2.0
"""Sagittal, coronal and axial pictures through each finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_write
from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.working_grid import WorkingGrid
from ..postprocessing.probability_map import Probabilities
from .overlay import BONE_WINDOW, COLOURS

HALF_MM = 95.0  # shown on each side of a finding
MOST = 5
PLANES = ("sagittal", "coronal", "axial")


def _centres(numbers: NDArray[np.int32], most: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Finding and its middle voxel in the box, the largest first."""
    middles = []
    for number in range(1, min(int(numbers.max(initial=0)), most) + 1):
        places = np.argwhere(numbers == number)
        middles.append((number, places[len(places) // 2] if len(places) < 3 else np.median(places, axis=0).astype(int)))
    return middles


def _slice(scan: Scan, grid: WorkingGrid, axis: int, centre: NDArray[np.int64]) -> tuple[NDArray, list[range]]:
    """HU of one plane around a voxel, and the working voxels shown along R, A, S."""
    shown = []
    for a in range(3):
        half = round(HALF_MM / grid.spacing[a])
        low = 0 if a == axis else max(int(centre[a]) - half, 0)
        high = grid.shape[a] if a == axis else min(int(centre[a]) + half + 1, grid.shape[a])
        shown.append(range(int(centre[a]), int(centre[a]) + 1) if a == axis else range(low, high))
    hu = sample(scan.slab, grid, [np.arange(r.start, r.stop) for r in shown])
    return hu.squeeze(axis), shown


def draw_views(
    scan: Scan, grid: WorkingGrid, found: Probabilities, numbers: NDArray[np.int32], threshold: float, title: str
):
    """Draw one row of three planes per finding, at most five rows; the middle of the scan when nothing was found.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    origin = np.array(found.origin)
    rows = [(f"finding {n}", origin + c) for n, c in _centres(numbers, MOST)]
    rows = rows or [("no finding", np.array([n // 2 for n in grid.shape]))]
    figure = Figure(figsize=(9, 3.1 * len(rows) + 0.4), layout="constrained", facecolor="black")
    axes = np.atleast_2d(figure.subplots(len(rows), 3))
    mask = (found.volume > threshold) & (numbers > 0)
    for line, (name, centre) in zip(axes, rows, strict=True):
        for axis, panel in enumerate(line):
            hu, shown = _slice(scan, grid, axis, centre)
            others = [a for a in range(3) if a != axis]
            extent = [v for a in others for v in (shown[a].start * grid.spacing[a], shown[a].stop * grid.spacing[a])]
            panel.imshow(
                hu.T,
                cmap="gray",
                vmin=BONE_WINDOW[0],
                vmax=BONE_WINDOW[1],
                origin="lower",
                extent=extent,
                aspect="equal",
            )
            plane = np.zeros(hu.shape, bool)
            at = int(centre[axis]) - found.origin[axis]
            if mask.size and 0 <= at < mask.shape[axis]:
                cut = np.take(mask, at, axis)
                into, source = [], []
                for n, a in enumerate(others):
                    low, high = max(shown[a].start, found.origin[a]), min(shown[a].stop, found.origin[a] + cut.shape[n])
                    into.append(slice(low - shown[a].start, max(high, low) - shown[a].start))
                    source.append(slice(low - found.origin[a], max(high, low) - found.origin[a]))
                plane[tuple(into)] = cut[tuple(source)]
            if plane.any():
                x, y = ((np.arange(shown[a].start, shown[a].stop) + 0.5) * grid.spacing[a] for a in others)
                panel.contour(x, y, plane.T, levels=[0.5], colors=COLOURS["prediction"], linewidths=1.1)
            # Front to the left, and the patient's right to the left, as CT is read: R and A run to the right and to the front.
            panel.invert_xaxis()
            panel.set_axis_off()
            panel.set_title(f"{name}, {PLANES[axis]}", color="white", fontsize=8)
    figure.suptitle(f"{title}   (research use only)", color="white", fontsize=9)
    return figure


def save_views(
    path: Path,
    scan: Scan,
    grid: WorkingGrid,
    found: Probabilities,
    numbers: NDArray[np.int32],
    threshold: float,
    title: str,
) -> None:
    """Write ``draw_views`` as PNG; it appears under its name only when complete."""
    with atomic_write(path) as temporary:
        draw_views(scan, grid, found, numbers, threshold, title).savefig(temporary, dpi=90)
