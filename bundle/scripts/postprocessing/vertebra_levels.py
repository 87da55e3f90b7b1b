# SPDX-License-Identifier: Apache-2.0
"""Levels of vertebra instances: from a given mask, or counted upwards from the sacrum where it is in view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ..core.vertebrae import LABELS, LEVELS
from .vertebra_instances import VertebraInstances

# The disc L5/S1 is inclined by 30 to 50 degrees in a supine patient, L4/L5 by 10 to 25 (sacral slope: Roussouly et al. 2005,
# doi:10.1097/01.brs.0000152379.54463.65); between them an error of one level is likely, and there is no guess.
MIN_LUMBOSACRAL_DEG = 32.0
# Upper thoracic discs are inclined as much; their bodies are narrower (mean of depth and width, mm).
MIN_LUMBAR_WIDTH_MM = 28.0
MIN_VIEW_BELOW_MM = 25.0  # of the scan below the last vertebra, for a sacrum without an instance of its own
NAMES_UPWARDS = [*(f"L{n}" for n in range(5, 0, -1)), *(f"T{n}" for n in range(12, 0, -1)), *(f"C{n}" for n in range(7, 0, -1))]


def levels_from_mask(labels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict[int, int]:
    """VerSe label of each instance that shares most of its voxels with one vertebra of a mask.

    Args:
        labels: (R, A, S) instances.
        mask: (R, A, S) VerSe labels on the same grid.
    """
    result: dict[int, int] = {}
    for number in range(1, int(labels.max(initial=0)) + 1):
        counts = np.bincount(mask[labels == number], minlength=2)
        total = int(counts.sum())
        counts[0] = 0
        best = int(np.argmax(counts))
        if total and best in LEVELS and counts[best] >= 0.5 * total and best not in result.values():
            result[number] = best
    return result


def lumbosacral_disc(instances: VertebraInstances, view_below_mm: float) -> int | None:
    """Number of the vertebra above the disc L5/S1, or None where the sacrum cannot be recognised.

    Args:
        instances: vertebrae with the inclination of their discs.
        view_below_mm: scan below the last vertebra.
    """
    numbers = instances.numbers
    for number in numbers[-2:]:
        shape = instances.shapes.get(number)
        if shape is None or shape.width_mm < MIN_LUMBAR_WIDTH_MM or not shape.tilt_below_deg >= MIN_LUMBOSACRAL_DEG:
            continue
        last = number == numbers[-1]
        if last and (view_below_mm < MIN_VIEW_BELOW_MM or not instances.complete[number]):
            continue
        return number
    return None


def guess_levels(instances: VertebraInstances, view_below_mm: float) -> tuple[dict[int, int], int | None]:
    """Guess levels by counting from L5 upwards.

    Five lumbar and twelve thoracic vertebrae are assumed; up to one person in eight has another number, so this is a guess.

    Args:
        instances: vertebrae of a scan.
        view_below_mm: scan below the last vertebra.

    Returns:
        VerSe label by number, empty without a visible sacrum; and the number of an instance that is the sacrum, or None.
    """
    lowest = lumbosacral_disc(instances, view_below_mm)
    if lowest is None:
        return {}, None
    upwards = [n for n in reversed(instances.numbers) if n <= lowest]
    below = [n for n in instances.numbers if n > lowest]
    labels = {n: LABELS[name] for n, name in zip(upwards, NAMES_UPWARDS, strict=False)}
    return labels, below[0] if below else None


def levels_without_sacrum(
    instances: VertebraInstances, spacing: Sequence[float], first_voxel: int = 0
) -> tuple[VertebraInstances, dict[int, int]]:
    """Vertebrae without an instance that is the sacrum, and their guessed levels.

    Args:
        instances: vertebrae (R, A, S) of a box of a scan.
        spacing: mm.
        first_voxel: position of the box along S in the scan.
    """
    found = find_objects((instances.labels > 0).astype(np.uint8)) if instances.labels.size else []
    below = (first_voxel + found[0][2].start) * spacing[2] if found else 0.0
    labels, sacrum = guess_levels(instances, below)
    return (instances if sacrum is None else instances.without(sacrum)), labels
