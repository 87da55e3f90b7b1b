# SPDX-License-Identifier: Apache-2.0
"""Outlines of masks on sagittal slices of a CT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.files import atomic_write

BONE_WINDOW = (-200.0, 900.0)  # HU
COLOURS = {"reference": "#39d353", "prediction": "#ff9f1c", "unknown": "#b0b7c3"}
STYLES = {"unknown": "dotted"}


def _canonical(array: NDArray, affine: NDArray) -> tuple[NDArray, NDArray]:
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    return np.asarray(image.dataobj), np.abs(np.linalg.norm(image.affine[:3, :3], axis=0))


def choose_slices(mask: NDArray[np.bool_], number: int = 3) -> list[int]:
    """Sagittal slices that show most of the mask, spread over its width; slices around the middle when it is empty."""
    counts = mask.sum(axis=(1, 2))
    if not counts.any():
        middle, step = mask.shape[0] // 2, max(mask.shape[0] // 8, 1)
        return sorted(
            {min(max(middle + step * k, 0), mask.shape[0] - 1) for k in range(-(number // 2), number // 2 + 1)}
        )
    total = np.cumsum(counts) / counts.sum()
    return sorted({int(np.searchsorted(total, q)) for q in np.linspace(0.25, 0.75, number)})


def draw_overlay(
    image: NDArray, affine: NDArray, masks: Mapping[str, NDArray[np.bool_]], title: str = "", number: int = 3
):
    """Draw sagittal slices with outlines.

    Args:
        image: CT in HU (X, Y, Z), any orientation; values of a picture, 0 to 255, get a window of their own.
        affine: voxel to world (R, A, S).
        masks: masks on the same grid by name; "reference", "prediction" and "unknown" have their colours.
        title: line above the picture.
        number: slices to show.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    volume, spacing = _canonical(np.asarray(image, np.float32), affine)
    flat = {name: _canonical(np.asarray(mask, np.uint8), affine)[0] > 0 for name, mask in masks.items()}
    chosen = [m for name, m in flat.items() if name != "unknown"]
    slices = choose_slices(np.logical_or.reduce(chosen) if chosen else np.zeros(volume.shape, bool), number)
    low, high = (0.0, 255.0) if volume.min() >= 0 and volume.max() <= 255 else BONE_WINDOW
    extent = (volume.shape[1] * spacing[1], volume.shape[2] * spacing[2])
    width = 3.2
    figure = Figure(
        figsize=(width * len(slices), width * extent[1] / extent[0] + 0.5), layout="constrained", facecolor="black"
    )
    axes = np.atleast_1d(figure.subplots(1, len(slices)))
    for axis, index in zip(axes, slices, strict=True):
        # Anterior to the left, as sagittal CT is read.
        axis.imshow(
            volume[index, ::-1].T,
            cmap="gray",
            vmin=low,
            vmax=high,
            origin="lower",
            extent=(0, extent[0], 0, extent[1]),
        )
        for name, mask in flat.items():
            if mask[index].any():
                x = (np.arange(volume.shape[1]) + 0.5) * spacing[1]
                z = (np.arange(volume.shape[2]) + 0.5) * spacing[2]
                axis.contour(
                    x,
                    z,
                    mask[index, ::-1].T,
                    levels=[0.5],
                    colors=COLOURS[name],
                    linewidths=1.2,
                    linestyles=STYLES.get(name, "solid"),
                )
        axis.set_axis_off()
    lines = [Line2D([], [], color=COLOURS[name], linestyle=STYLES.get(name, "-"), label=name) for name in flat]
    if lines:
        axes[0].legend(
            handles=lines, loc="lower left", fontsize=7, labelcolor="white", framealpha=0.3, facecolor="black"
        )
    if title:
        figure.suptitle(title, color="white", fontsize=9)
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
        affine: voxel to world (R, A, S).
        prediction: mask on the same grid, or None.
        reference: mask on the same grid, or None.
        title: line above the picture.
        number: slices to show.
    """
    masks = {n: np.asarray(m) > 0 for n, m in (("reference", reference), ("prediction", prediction)) if m is not None}
    with atomic_write(path) as temporary:
        draw_overlay(image, affine, masks, title, number).savefig(temporary, dpi=110)
