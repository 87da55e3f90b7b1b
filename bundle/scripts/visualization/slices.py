# SPDX-License-Identifier: Apache-2.0
"""Slices of a CT in radiological orientation, bone window and physical aspect, with outlines of masks."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from ..core.geometry import spacing_of

BONE_WINDOW = (-200.0, 900.0)  # HU
PICTURE_WINDOW = (0.0, 255.0)  # grey values of 8 bits
COLOURS = {"reference": "#39d353", "prediction": "#ff9f1c", "ignored": "#b0b7c3"}
LINE_STYLES = {"ignored": "dotted"}


def isotropic(plane: NDArray, spacing: Sequence[float] | NDArray, order: int = 1) -> tuple[NDArray, float]:
    """Plane (U, V) interpolated to square pixels of the smaller spacing, and their size in mm.

    Args:
        plane: values (U, V).
        spacing: pixel size along U and V in mm.
        order: order of the spline; 1 is linear, and 0 keeps labels.
    """
    pixel = float(min(spacing))
    factors = [float(d) / pixel for d in spacing]
    if max(factors) < 1.01:
        return plane, pixel
    values = plane if order == 0 else np.asarray(plane, np.float32)
    return zoom(values, factors, order=order, mode="nearest", grid_mode=True), pixel


def ras_affine(image: nib.Nifti1Image) -> NDArray[np.float64]:
    """Voxel (R, A, S) of ``ras_volume`` to world (4, 4), mm."""
    return np.asarray(nib.as_closest_canonical(image).affine, np.float64)


def ras_volume(image: nib.Nifti1Image) -> tuple[NDArray, NDArray[np.float64]]:
    """Voxels (R, A, S) in the closest canonical orientation, and their spacing in mm."""
    canonical = nib.as_closest_canonical(image)
    return np.asarray(canonical.dataobj), spacing_of(canonical.affine)


def largest_slice(mask: NDArray[np.bool_]) -> int:
    """Index of the sagittal slice with the largest area of a mask (R, A, S), or of the middle one when it is empty."""
    return int(mask.sum(axis=(1, 2)).argmax()) if mask.any() else mask.shape[0] // 2


def choose_slices(mask: NDArray[np.bool_], number: int = 3) -> list[int]:
    """Indices of sagittal slices at evenly spaced quantiles, 0.25 to 0.75, of the voxels of a mask (R, A, S).

    For an empty mask they are spread around the middle. Equal indices are merged.
    """
    counts = mask.sum(axis=(1, 2))
    if not counts.any():
        middle, step = mask.shape[0] // 2, max(mask.shape[0] // 8, 1)
        shifts = range(-(number // 2), number // 2 + 1)
        return sorted({min(max(middle + step * k, 0), mask.shape[0] - 1) for k in shifts})
    cumulative = np.cumsum(counts) / counts.sum()
    return sorted({int(np.searchsorted(cumulative, q)) for q in np.linspace(0.25, 0.75, number)})


def window_of(volume: NDArray) -> tuple[float, float]:
    """Bone window in HU, or the whole range of grey values for a picture of 8 bits."""
    return PICTURE_WINDOW if volume.min() >= 0 and volume.max() <= 255 else BONE_WINDOW


def show_slice(
    axes,
    plane: NDArray,
    spacing: Sequence[float] | NDArray,
    window: tuple[float, float] = BONE_WINDOW,
    start: Sequence[float] = (0.0, 0.0),
) -> None:
    """Draw a plane in grey, in its physical aspect, interpolated to square pixels.

    The first axis of the plane, R or A, runs from right to left, so that the patient's right or anterior lies on the left, as CT
    is read; the second, A or S, runs upwards.

    Args:
        axes: matplotlib axes.
        plane: values (U, V).
        spacing: pixel size along U and V in mm.
        window: values shown black and white.
        start: coordinates in mm of the border of the first pixel.
    """
    extent = [v for n, d, s in zip(plane.shape, spacing, start, strict=True) for v in (s, s + n * d)]
    square, _ = isotropic(plane, spacing)
    axes.imshow(
        square.T,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=extent,
        aspect="equal",
        interpolation="bilinear",
    )
    axes.set_xlim(extent[1], extent[0])
    axes.set_axis_off()


def outline(
    axes,
    mask: NDArray[np.bool_],
    spacing: Sequence[float] | NDArray,
    name: str = "prediction",
    width: float = 1.2,
    start: Sequence[float] = (0.0, 0.0),
    fill: float = 0.0,
    colour: str | None = None,
) -> None:
    """Draw the outline of a mask over ``show_slice``; an empty mask draws nothing.

    Args:
        axes: matplotlib axes.
        mask: mask (U, V).
        spacing: pixel size along U and V in mm.
        name: key of ``COLOURS``.
        width: line width in points.
        start: coordinates in mm of the border of the first pixel.
        fill: opacity of the area inside.
        colour: colour in place of that of ``name``.
    """
    if not mask.any():
        return
    u, v = ((np.arange(n) + 0.5) * d + s for n, d, s in zip(mask.shape, spacing, start, strict=True))
    colour, style = colour or COLOURS[name], LINE_STYLES.get(name, "solid")
    if fill:
        axes.contourf(u, v, mask.T, levels=[0.5, 1.5], colors=[colour], alpha=fill)
    axes.contour(u, v, mask.T, levels=[0.5], colors=[colour], linewidths=width, linestyles=style)
