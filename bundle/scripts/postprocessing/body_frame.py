# SPDX-License-Identifier: Apache-2.0
"""Vertebral body in the frame that its own endplates define: columns, endplates, gaps to the neighbours, cut columns, heights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.genant import ZONES, central_third, heights_from_columns
from .vertebra_frame import (
    MAX_GAP_MM,
    MIN_HEIGHT_MM,
    FrameError,
    axis_samples,
    body_axes,
    body_footprint,
    endplate_surface,
    sample_frame,
)
from .vertebra_piece import VertebraPiece

MAX_AXIS_CHANGE_DEG = 30.0  # between the line of the spine and the normal of the endplates
TILT_DEG = 3.0  # to both sides, of the axis found by the endplates


@dataclass(frozen=True)
class BodyColumns:
    """Vertebral body in its own frame.

    Attributes:
        centre: (3,) origin in world mm.
        axes: (3, 3) unit vectors right, anterior and up in world coordinates, as columns.
        footprint: (X, Y) columns of the body without pedicles.
        depth: (X, Y) position between the posterior (0) and the anterior wall (1).
        top, bottom: (X, Y) endplates in mm along the up axis.
    """

    centre: NDArray[np.floating]
    axes: NDArray[np.floating]
    footprint: NDArray[np.bool_]
    depth: NDArray[np.floating]
    top: NDArray[np.floating]
    bottom: NDArray[np.floating]

    @property
    def heights(self) -> NDArray[np.floating]:
        """Anterior, middle and posterior height (3,) in mm."""
        heights = heights_from_columns(self.top - self.bottom, self.footprint, self.depth)
        return np.array([heights.anterior, heights.middle, heights.posterior])


def _normal(surface: NDArray, footprint: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Upward normal (3,) of the plane through a surface (X, Y), in the frame; without the rim, where spurs grow."""
    inner = ndimage.binary_erosion(footprint, iterations=3)
    inner = inner if inner.sum() >= 30 else footprint
    x, y = (axis_samples(i)[index] for i, index in enumerate(np.nonzero(inner)))
    slope = np.linalg.lstsq(np.stack([x, y, np.ones_like(x)], axis=1), surface[inner], rcond=None)[0]
    normal = np.array([-slope[0], -slope[1], 1.0])
    return normal / np.linalg.norm(normal)


def _turned(axes: NDArray, up: NDArray) -> NDArray[np.floating]:
    """Axes (3, 3) with the front as before and the nearest possible up axis to ``up`` (3,)."""
    front = axes[:, 1] - up * (axes[:, 1] @ up)
    front /= np.linalg.norm(front)
    return np.stack([np.cross(front, up), front, up], axis=1)


def _columns(piece: VertebraPiece, centre: NDArray, axes: NDArray) -> BodyColumns:
    """Body of a piece in a frame, endplates by the surface of the mask.

    Raises:
        FrameError: when there is no solid body.
    """
    solid = sample_frame(piece.solid, centre, axes, piece.affine)
    footprint, depth = body_footprint(solid, piece.label)
    top, bottom = endplate_surface(solid, 1), endplate_surface(solid, -1)
    # A column near the pedicles can extend into an articular process: it is limited to the height of the body.
    for surface, sign in ((top, 1), (bottom, -1)):
        median = sign * np.median(sign * surface[footprint])
        surface[footprint] = sign * np.minimum(sign * surface[footprint], sign * median + 5.0)
    if (top - bottom)[footprint].mean() < MIN_HEIGHT_MM:
        raise FrameError(f"vertebra {piece.label} has a body of less than {MIN_HEIGHT_MM:g} mm in height")
    return BodyColumns(centre, axes, footprint, depth, top, bottom)


def fitted_body(piece: VertebraPiece, above: NDArray | None, below: NDArray | None) -> BodyColumns:
    """Body in the frame whose up axis halves the angle between its endplates.

    The line of the spine through the neighbours is only the start, so that heights depend neither on the pose of the patient nor on
    fractures beside.

    Raises:
        FrameError: when there is no solid body.
    """
    axes = body_axes(piece.centre, piece.centroid, above, below)
    spine, body = axes[:, 2], _columns(piece, piece.centre, axes)
    for _ in range(2):
        up = body.axes @ (_normal(body.top, body.footprint) + _normal(body.bottom, body.footprint))
        up /= np.linalg.norm(up)
        x, y = (axis_samples(i)[index].mean() for i, index in enumerate(np.nonzero(body.footprint)))
        middle = body.centre + body.axes @ np.array([x, y, (body.top + body.bottom)[body.footprint].mean() / 2])
        turned = np.degrees(np.arccos(np.clip(up @ spine, -1, 1))) <= MAX_AXIS_CHANGE_DEG
        try:
            body = _columns(piece, middle, _turned(body.axes, up) if turned else body.axes)
        except FrameError:
            break  # the middle of a collapsed body can be hollow; its thickest part is not
    return body


def without_cut_columns(piece: VertebraPiece, body: BodyColumns) -> BodyColumns:
    """Body without the columns whose endplate lies on the border of the scan, as their height is that of the scan.

    Raises:
        FrameError: when they are half of a zone or more.
    """
    x, y = (axis_samples(i)[index] for i, index in enumerate(np.nonzero(body.footprint)))
    inverse, shape = np.linalg.inv(piece.affine), np.array(piece.labels.shape)[:, None]
    cut = np.zeros_like(body.footprint)
    for surface in (body.top, body.bottom):
        world = body.axes @ np.stack([x, y, surface[body.footprint]]) + body.centre[:, None]
        voxel = inverse[:3, :3] @ world + inverse[:3, 3:]
        cut[body.footprint] |= ((voxel < 0.45) | (voxel > shape - 1.45)).any(axis=0)
    central = central_third(body.footprint)
    for low, high in ZONES.values():
        zone = central & (body.depth >= low) & (body.depth <= high)
        if cut[zone].mean() >= 0.5 if zone.any() else True:
            raise FrameError(f"vertebra {piece.label} is cut by the border of the scan")
    return replace(body, footprint=body.footprint & ~cut)


def gaps_to_neighbours(piece: VertebraPiece, body: BodyColumns) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Distances (X, Y) in mm from the upper and the lower endplate to the next vertebra, at most ``MAX_GAP_MM``."""
    other = ((piece.labels > 0) & (piece.labels != piece.label)).astype(np.float32)
    others = sample_frame(other, body.centre, body.axes, piece.affine) > 0.5
    above, below = axis_samples(2) - body.top[..., None], body.bottom[..., None] - axis_samples(2)
    upper, lower = (np.where(others & (d > 0), d, MAX_GAP_MM).min(axis=2) for d in (above, below))
    return upper, lower


def tilt_error(piece: VertebraPiece, body: BodyColumns) -> NDArray[np.floating]:
    """Standard deviations (3,) in mm of the heights by an axis that is up to ``TILT_DEG`` off in the sagittal plane (uniform)."""
    heights = [body.heights]
    for angle in np.radians((-TILT_DEG, TILT_DEG)):
        up = body.axes @ np.array([0.0, np.sin(angle), np.cos(angle)])
        try:
            heights.append(_columns(piece, body.centre, _turned(body.axes, up)).heights)
        except FrameError:
            continue
    difference = np.nan_to_num(np.array(heights[1:]).reshape(-1, 3) - heights[0])
    return np.sqrt(np.mean(difference**2, axis=0) / 3) if len(difference) else np.zeros(3)
