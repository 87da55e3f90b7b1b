# SPDX-License-Identifier: Apache-2.0
"""HU of the trabecular bone of a vertebral body, away from cortex and endplates, and metal or cement in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .endplate_edges import CtSampler
from .vertebra_frame import STEP_MM, axis_samples

WALL_MM = 5.0  # to the wall of the body, or a quarter of its depth where that is less
ENDPLATE_FRACTION = 0.25  # of the height at both endplates that is left out
MIN_VOLUME_MM3 = 100
METAL_HU, METAL_FRACTION = 2000, 0.005
CEMENT_HU, CEMENT_FRACTION = 1000, 0.10


@dataclass(frozen=True)
class TrabecularBone:
    """HU of the trabecular bone.

    Attributes:
        mean: mean HU, NaN where the region is too small.
        sd: standard deviation of the means of its sagittal slices.
        foreign: True for metal or cement in the body.
    """

    mean: float
    sd: float
    foreign: bool


def _foreign(values: NDArray) -> bool:
    return bool(np.mean(values > METAL_HU) > METAL_FRACTION or np.mean(values > CEMENT_HU) > CEMENT_FRACTION)


def trabecular_bone(
    ct: CtSampler, centre: NDArray, axes: NDArray, footprint: NDArray[np.bool_], top: NDArray, bottom: NDArray
) -> TrabecularBone:
    """HU in the middle half of the height of a body, ``WALL_MM`` away from its wall.

    The region follows opportunistic screening for osteoporosis, which measures an ellipse in the trabecular space at mid-height,
    off the cortex (Pickhardt et al. 2013, doi:10.7326/0003-4819-158-8-201304160-00003), but is a volume instead of one slice.

    Args:
        ct: CT with the body.
        centre: (3,) origin of the frame in world mm.
        axes: (3, 3) axes of the frame as columns.
        footprint: (X, Y) columns of the body.
        top: (X, Y) upper endplate in mm along the up axis.
        bottom: (X, Y) lower endplate.
    """
    x, y, t = (axis_samples(i) for i in range(3))
    rows = np.nonzero(footprint.any(axis=0))[0]
    wall = min(WALL_MM, 0.25 * (rows.max() - rows.min() + 1) * STEP_MM) if rows.size else WALL_MM
    distance = ndimage.distance_transform_edt(np.pad(footprint, 1), sampling=STEP_MM)[1:-1, 1:-1]
    share = (t - bottom[..., None]) / np.maximum(top - bottom, STEP_MM)[..., None]
    inner = (distance > 2.0)[..., None] & (share > 0.1) & (share < 0.9)
    region = (distance > wall)[..., None] & (share >= ENDPLATE_FRACTION) & (share <= 1 - ENDPLATE_FRACTION)
    index = np.argwhere(inner)
    points = axes @ np.stack([x[index[:, 0]], y[index[:, 1]], t[index[:, 2]]]) + centre[:, None]
    hu = np.full(inner.shape, np.nan, np.float32)
    hu[inner] = ct(points)
    known = hu[np.isfinite(hu)]
    foreign = known.size > 0 and _foreign(known)
    chosen = region & np.isfinite(hu)
    if chosen.sum() * STEP_MM**3 < MIN_VOLUME_MM3:
        return TrabecularBone(float("nan"), float("nan"), foreign)
    slices = [hu[k][chosen[k]].mean() for k in range(len(x)) if chosen[k].any()]
    return TrabecularBone(float(hu[chosen].mean()), float(np.std(slices)), foreign)
