# SPDX-License-Identifier: Apache-2.0
"""Endplates of a vertebral body by the CT: half-way between cortical endplate and disc, near the surface of a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from .vertebra_frame import axis_samples

PROFILE_MM = np.arange(-4.0, 6.01, 0.5)  # positions along a column, outwards from the surface of the mask
CORTEX_MM = (-3.0, 2.0)  # where the cortical endplate is expected, from the surface of the mask
MIN_CONTRAST_HU = 40.0  # between cortical endplate and disc; below it noise decides
MIN_DISC_HU = 0.0  # gas in a disc is darker and would move the edge outwards
MIN_COLUMNS = 0.5  # of the footprint with an edge; with fewer the surface of the mask is kept
MAX_SHIFT_MM = (-2.0, 2.5)  # of the edge from the surface of the mask; farther off it is that of another bone or a spur


@dataclass(frozen=True)
class CtSampler:
    """CT that can be sampled at any point of the world.

    Attributes:
        image: (X, Y, Z) HU in any orientation.
        affine: (4, 4) voxel to world (R, A, S) in mm.
    """

    image: NDArray
    affine: NDArray[np.floating]

    def __call__(self, points: ArrayLike) -> NDArray[np.float32]:
        """HU (...) at world points (3, ...) in mm, linear between voxels; NaN outside of the scan."""
        world = np.asarray(points, float)
        inverse = np.linalg.inv(self.affine)
        voxels = np.tensordot(inverse[:3, :3], world, axes=1) + inverse[:3, 3].reshape(3, *(1,) * (world.ndim - 1))
        output = np.empty(world.shape[1:], np.float32)
        ndimage.map_coordinates(self.image, voxels, output=output, order=1, cval=np.nan)
        return output


def _edge_of(profile: NDArray, limit: NDArray) -> NDArray[np.floating]:
    """Position (X, Y) in mm of the edge in profiles (X, Y, P) over ``PROFILE_MM``; NaN without one.

    Args:
        profile: (X, Y, P) HU from the inside of the body outwards.
        limit: (X, Y) half of the distance to the next vertebra in mm; the cortex beyond it is that of the neighbour.
    """
    place = np.broadcast_to(PROFILE_MM, profile.shape)
    expected = (place >= CORTEX_MM[0]) & (place <= np.minimum(CORTEX_MM[1], limit[..., None]))
    peak_at = np.argmax(np.where(expected & np.isfinite(profile), profile, -np.inf), axis=2)[..., None]
    peak = np.take_along_axis(profile, peak_at, axis=2)
    index = np.arange(profile.shape[2])
    outside = (index > peak_at) & (place <= PROFILE_MM[peak_at] + 5.0) & np.isfinite(profile)
    disc = np.maximum(np.where(outside, profile, np.inf).min(axis=2, keepdims=True), MIN_DISC_HU)
    half = (peak + disc) / 2
    below = outside & (profile < half)
    first = below.argmax(axis=2)[..., None]
    before = np.take_along_axis(profile, np.maximum(first - 1, 0), axis=2)
    after = np.take_along_axis(profile, first, axis=2)
    step = PROFILE_MM[1] - PROFILE_MM[0]
    fraction = np.clip((before - half) / np.maximum(before - after, 1e-6), 0, 1)
    edge = PROFILE_MM[np.maximum(first - 1, 0)] + step * fraction
    found = below.any(axis=2) & (peak - disc >= MIN_CONTRAST_HU)[..., 0] & expected.any(axis=2)
    found &= (edge[..., 0] >= MAX_SHIFT_MM[0]) & (edge[..., 0] <= MAX_SHIFT_MM[1])
    return np.where(found, edge[..., 0], np.nan)


def endplate_from_ct(
    ct: CtSampler, centre: NDArray, axes: NDArray, footprint: NDArray[np.bool_], surface: NDArray, gap: NDArray, direction: int
) -> NDArray[np.floating] | None:
    """Endplate by the CT, near the surface of a mask.

    Along every column, the edge is where the HU fall to half-way between the cortical endplate and the disc. Against noise,
    neighbouring columns are averaged before and the edge is smoothed by a median afterwards.

    Args:
        ct: CT with the body.
        centre: (3,) origin of the frame in world mm.
        axes: (3, 3) axes of the frame as columns.
        footprint: (X, Y) columns of the body.
        surface: (X, Y) endplate of the mask in mm along the up axis.
        gap: (X, Y) distance in mm from the surface to the next vertebra.
        direction: 1 for the upper, -1 for the lower endplate.

    Returns:
        (X, Y) endplate in mm along the up axis, that of the mask outside of the footprint; None where the CT has no clear edge in
        half of the columns.
    """
    x, y = (axis_samples(i)[:, None] if i == 0 else axis_samples(i)[None, :] for i in (0, 1))
    place = surface[..., None] + direction * PROFILE_MM
    grid = np.stack(np.broadcast_arrays(x[..., None], y[..., None], place))
    inside = ndimage.binary_dilation(footprint)
    profile = np.full(place.shape, np.nan, np.float32)
    profile[inside] = ct(np.tensordot(axes, grid[:, inside], axes=1) + centre.reshape(3, 1, 1))
    weight = np.isfinite(profile).astype(np.float32)
    total = ndimage.uniform_filter(np.where(weight > 0, profile, 0.0), size=(3, 3, 1))
    share = ndimage.uniform_filter(weight, size=(3, 3, 1))
    profile = np.where(share > 0.3, total / np.maximum(share, 1e-6), np.nan)
    edge = np.where(footprint, _edge_of(profile, gap / 2), np.nan)
    found = np.isfinite(edge)
    if not footprint.any() or found.sum() < MIN_COLUMNS * footprint.sum():
        return None
    filled = np.where(found, edge, float(np.median(edge[found])))
    # Outside of the footprint its nearest column counts, so that the median does not pull the rim.
    nearest = ndimage.distance_transform_edt(~footprint, return_distances=False, return_indices=True)
    smooth = ndimage.median_filter(filled[tuple(nearest)], size=5)
    return np.where(footprint, surface + direction * smooth, surface)
