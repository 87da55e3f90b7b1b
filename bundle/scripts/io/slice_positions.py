# SPDX-License-Identifier: Apache-2.0
"""Positions of parallel slices compared with a regular grid, in all three directions and accumulated over the series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GAP_TOLERANCE = 0.1  # of the slice distance, between neighbours
ROUNDING_MM = 0.11  # positions may be rounded to 0.1 mm
MAX_TILT_DEGREES = 45.0  # gantries reach 30


@dataclass(frozen=True)
class SlicePositions:
    """Slices in order of their position, in the coordinates of the stack: along columns, along rows, along the normal (mm).

    Attributes:
        order: index of the slices, from the lowest position along the normal.
        offsets: (n, 3) from the first slice, in that order.
        distance: mean distance of neighbours along the normal.
        tilt_degrees: angle between the normal and the line through the slices.
        notes: reasons why the slices must be resampled, none where they lie on the regular grid.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.float64]
    distance: float
    tilt_degrees: float
    notes: tuple[str, ...]


def _check_steps(along: NDArray[np.float64], names: Sequence[str], folder: str) -> float:
    """Median distance of neighbours in mm; refuses repeated positions and gaps."""
    steps = np.diff(along)
    step = float(np.median(steps))
    if step < 1e-3 or (steps < GAP_TOLERANCE * step).any():
        at = int(np.argmin(steps))
        raise ValueError(
            f"{folder}: {names[at]} and {names[at + 1]} have the same position ({along[at]:.2f} mm); "
            "keep one phase or reconstruction"
        )
    if (np.abs(steps - step) > max(GAP_TOLERANCE * step, min(ROUNDING_MM, 0.3 * step))).any():
        at = int(np.argmax(steps))
        missing = round(steps[at] / step) - 1
        defect = f"{missing} slice(s) are missing" if missing >= 1 else "the slices are not evenly spaced"
        raise ValueError(
            f"{folder}: {defect} near {names[at]} ({steps[at]:.2f} mm, elsewhere {step:.2f} mm); export the series again"
        )
    return step


def arrange_slices(
    positions: NDArray[np.float64], orientation: NDArray[np.float64], names: Sequence[str], folder: str, tolerance_mm: float
) -> SlicePositions:
    """Order the slices and compare every position with the regular grid.

    A tilted gantry and distances that change by less than a tenth lie on a known grid, though not a regular one, and get a note, as
    interpolation along the normal is safe there. A jump within the plane contradicts the pixels of a scan of one patient at rest.

    Args:
        positions: ImagePositionPatient (n, 3), mm.
        orientation: ImageOrientationPatient (6,).
        names: file names (n,), for messages.
        folder: folder of the series, for messages.
        tolerance_mm: greatest distance from the grid in each direction.

    Raises:
        ValueError: one line; repeated positions, gaps, slices beside the line through the others.
    """
    axes = orientation.reshape(2, 3) / np.linalg.norm(orientation.reshape(2, 3), axis=1, keepdims=True)
    frame = np.vstack([axes, np.cross(*axes)])
    stack = positions @ frame.T
    order = np.argsort(stack[:, 2], kind="stable")
    offsets = stack[order] - stack[order[0]]
    sorted_names = [names[i] for i in order]
    _check_steps(stack[order, 2], sorted_names, folder)
    number = np.arange(len(order))[:, None]
    slope = offsets[-1] / (len(order) - 1)
    residual = offsets - number * slope
    beside = np.abs(residual[:, :2]).max(axis=1)
    if beside.max() > tolerance_mm:
        jumps = np.linalg.norm(np.diff(residual[:, :2], axis=0), axis=1)
        at = int(jumps.argmax())
        raise ValueError(
            f"{folder}: its slices lie up to {beside.max():.1f} mm beside one line ({jumps[at]:.1f} mm between {sorted_names[at]} "
            f"and {sorted_names[at + 1]}; tolerance {tolerance_mm:g} mm); export the series again, or split it where it jumps"
        )
    tilt = float(np.degrees(np.arctan2(np.hypot(*slope[:2]), slope[2])))
    if tilt > MAX_TILT_DEGREES:
        raise ValueError(
            f"{folder}: the line through its slices is tilted by {tilt:.1f} degrees against them, more than a gantry allows; "
            "export the series again"
        )
    notes = []
    if np.hypot(*offsets[-1, :2]) > tolerance_mm:
        notes.append(f"the gantry was tilted by {tilt:.1f} degrees")
    if np.abs(residual[:, 2]).max() > tolerance_mm:
        steps = np.diff(offsets[:, 2])
        notes.append(f"the distance of its slices varies from {steps.min():.2f} to {steps.max():.2f} mm")
    return SlicePositions(order, offsets, float(slope[2]), tilt, tuple(notes))
