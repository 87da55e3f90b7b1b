# SPDX-License-Identifier: Apache-2.0
"""Overlays: outlines of masks on sagittal slices of a CT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_write
from .panes import NOTHING, mark_pane, plain, slice_title
from .slices import COLOURS, LINE_STYLES, choose_slices, outline, ras_affine, ras_volume, show_slice, window_of

WIDTH = 3.2  # of a slice, inches
MIN_HEIGHT = 1.5  # inches, of the slices


EMPTY = {"reference": "reference: no fracture", "prediction": "prediction: nothing marked", "ignored": "nothing ignored"}


def legend_entries(masks: Mapping[str, NDArray[np.bool_]], voxel_ml: float) -> list[tuple[str, str]]:
    """Names of the masks and their texts: volume, or that the mask is empty.

    Args:
        masks: masks by a key of ``slices.COLOURS``.
        voxel_ml: volume of a voxel (ml).
    """
    volumes = {name: np.count_nonzero(mask) * voxel_ml for name, mask in masks.items()}
    return [(name, f"{name}, {v:.1f} ml" if v else EMPTY[name]) for name, v in volumes.items()]


def draw_overlay(image: NDArray, affine: NDArray, masks: Mapping[str, NDArray[np.bool_]], title: str = "", number: int = 3):
    """Draw sagittal slices with outlines, the legend below them.

    Args:
        image: CT in HU or grey values from 0 to 255 (X, Y, Z), any orientation.
        affine: voxel to world (R, A, S, mm).
        masks: masks on the same grid, by a key of ``slices.COLOURS``.
        title: line above the slices.
        number: number of slices.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    stored = nib.Nifti1Image(np.asarray(image, np.float32), affine)
    (volume, spacing), world = ras_volume(stored), ras_affine(stored)
    volumes = {n: ras_volume(nib.Nifti1Image(np.asarray(m, np.uint8), affine))[0] > 0 for n, m in masks.items()}
    targets = [m for name, m in volumes.items() if name != "ignored"]
    indices = choose_slices(np.logical_or.reduce(targets) if targets else np.zeros(volume.shape, bool), number)
    # Titles and the legend leave nothing of a flat figure.
    height = max(WIDTH * (volume.shape[2] * spacing[2]) / (volume.shape[1] * spacing[1]), MIN_HEIGHT)
    figure = Figure(figsize=(WIDTH * len(indices), height + 0.9), layout="constrained", facecolor="black")
    panels = np.atleast_1d(figure.subplots(1, len(indices)))
    window = window_of(volume)
    for panel, index in zip(panels, indices, strict=True):
        show_slice(panel, volume[index], spacing[1:], window)
        for name, mask in volumes.items():
            outline(panel, mask[index], spacing[1:], name)
        mark_pane(panel, 0, slice_title(world, volume.shape, 0, index))
    entries = legend_entries(volumes, float(np.prod(spacing)) / 1000)
    lines = [Line2D([], [], color=COLOURS[n], linestyle=LINE_STYLES.get(n, "solid"), label=words) for n, words in entries]
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=8, labelcolor="white", frameon=False)
    if targets and not any(m.any() for m in targets):
        title = f"{title}: {NOTHING}" if title else NOTHING
    if title:
        figure.suptitle(f"{plain(title)}   (research use only)", color="white", fontsize=9)
    return figure


def save_overlay(
    path: str | Path,
    image: NDArray,
    affine: NDArray,
    prediction: NDArray | None = None,
    reference: NDArray | None = None,
    title: str = "",
    number: int = 3,
) -> None:
    """Write ``draw_overlay`` of a prediction and a reference as PNG; it appears under its name only when complete.

    Args:
        path: PNG to write.
        image: CT in HU (X, Y, Z), any orientation.
        affine: voxel to world (R, A, S, mm).
        prediction: mask on the same grid, or None.
        reference: mask on the same grid, or None.
        title: line above the slices.
        number: number of slices.
    """
    masks = {n: np.asarray(m) > 0 for n, m in (("reference", reference), ("prediction", prediction)) if m is not None}
    with atomic_write(path) as temporary:
        draw_overlay(image, affine, masks, title, number).savefig(temporary, dpi=110)
