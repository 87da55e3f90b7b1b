# SPDX-License-Identifier: Apache-2.0
"""Heights of vertebral bodies in mm with their uncertainty, HU of the trabecular bone and volume, from instances, bodies and CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.genant import ZONES, central_third, heights_from_columns
from .endplate_edges import CtSampler, endplate_from_ct
from .trabecular import trabecular_bone
from .vertebra_frame import (
    MAX_GAP_MM,
    MIN_RADIUS_FRACTION,
    STEP_MM,
    FrameError,
    axis_samples,
    body_axes,
    body_footprint,
    endplate_surface,
    frame_points,
)
from .vertebra_piece import VertebraPiece, cut_out

MAX_VOXEL_MM = 4.0  # along the spine; in thicker slices one slice more or less is a grade
MIN_HEIGHT_MM = 3.0  # mean height of a body; a vertebra plana has more
MAX_AXIS_CHANGE_DEG = 30.0  # between the line of the spine and the normal of the endplates
CORRELATION_MM = 4.0  # of the surface of an endplate; closer sagittal slices are not independent
METAL_FACTOR = 2.0  # of the standard deviations beside metal or cement
METAL_NOTE = "metal or cement: heights and HU uncertain"
NAN = float("nan")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class BodyMeasurement:
    """Measurement of one vertebral body. NaN is unknown, and ``note`` is the reason.

    Attributes:
        heights_mm: anterior, middle and posterior height.
        heights_sd_mm: their standard deviations: spread over sagittal slices and position of the endplates within a voxel.
        trabecular_hu: mean HU of the trabecular bone.
        trabecular_hu_sd: its spread between sagittal slices.
        body_volume_ml: volume of the body.
        centroid_mm: centre of the body in world coordinates (R, A, S).
        note: reason for what is missing or uncertain, or "".
    """

    heights_mm: Triple = (NAN, NAN, NAN)
    heights_sd_mm: Triple = (NAN, NAN, NAN)
    trabecular_hu: float = NAN
    trabecular_hu_sd: float = NAN
    body_volume_ml: float = NAN
    centroid_mm: Triple = (NAN, NAN, NAN)
    note: str = ""


@dataclass(frozen=True)
class _Body:
    """Body in its own frame: origin, axes, columns, and endplates in mm along the up axis."""

    centre: NDArray[np.floating]
    axes: NDArray[np.floating]
    footprint: NDArray[np.bool_]
    depth: NDArray[np.floating]
    top: NDArray[np.floating]
    bottom: NDArray[np.floating]
    gaps: tuple[NDArray[np.floating], NDArray[np.floating]]


def voxel_along(affine: NDArray, direction: NDArray) -> float:
    """Extent (mm) of a voxel of an affine (4, 4) along a unit vector (3,) in world coordinates."""
    return float(np.linalg.norm(affine[:3, :3].T @ direction))


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


def _columns(piece: VertebraPiece, centre: NDArray, axes: NDArray) -> _Body:
    """Body of a piece in a frame, endplates by the surface of the mask.

    Raises:
        FrameError: when there is no solid body.
    """
    points = frame_points(centre, axes, piece.affine)
    solid = ndimage.map_coordinates(piece.solid, points, order=1)
    footprint, depth = body_footprint(solid, piece.label)
    top, bottom = endplate_surface(solid, 1), endplate_surface(solid, -1)
    # A column near the pedicles can extend into an articular process: it is limited to the height of the body.
    for surface, sign in ((top, 1), (bottom, -1)):
        median = sign * np.median(sign * surface[footprint])
        surface[footprint] = sign * np.minimum(sign * surface[footprint], sign * median + 5.0)
    if (top - bottom)[footprint].mean() < MIN_HEIGHT_MM:
        raise FrameError(f"vertebra {piece.label} has a body of less than {MIN_HEIGHT_MM:g} mm in height")
    other = ((piece.labels > 0) & (piece.labels != piece.label)).astype(np.float32)
    others = ndimage.map_coordinates(other, points, order=1) > 0.5
    gaps = []
    for surface, sign in ((top, 1), (bottom, -1)):
        distance = sign * (axis_samples(2) - surface[..., None])
        gaps.append(np.where(others & (distance > 0), distance, MAX_GAP_MM).min(axis=2))
    return _Body(centre, axes, footprint, depth, top, bottom, (gaps[0], gaps[1]))


def _fitted_body(piece: VertebraPiece, above: NDArray | None, below: NDArray | None) -> _Body:
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


def _without_cut_columns(piece: VertebraPiece, body: _Body) -> _Body:
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


def _spread(body: _Body, lateral_voxel: float) -> NDArray[np.floating]:
    """Standard errors (3,) in mm of the anterior, middle and posterior height by their spread over sagittal slices."""
    height, central = body.top - body.bottom, central_third(body.footprint)
    width = np.count_nonzero(central.any(axis=1)) * STEP_MM
    independent = max(width / max(lateral_voxel, CORRELATION_MM), 1.0)
    errors = []
    for name in ("anterior", "middle", "posterior"):
        low, high = ZONES[name]
        zone = central & (body.depth >= low) & (body.depth <= high)
        means = [height[k][zone[k]].mean() for k in np.flatnonzero(zone.any(axis=1))]
        errors.append(np.std(means, ddof=1) / np.sqrt(independent) if len(means) > 1 else NAN)
    return np.array(errors)


def _measure(piece: VertebraPiece, above: NDArray | None, below: NDArray | None, ct: CtSampler | None) -> BodyMeasurement:
    """Measure the body of a piece.

    Raises:
        FrameError: when it cannot be measured.
    """
    up = body_axes(piece.centre, piece.centroid, above, below)[:, 2]
    voxel = max(voxel_along(a, up) for a in (piece.affine, *((ct.affine,) if ct is not None else ())))
    if voxel > MAX_VOXEL_MM:
        raise FrameError(
            f"voxels of {voxel:.1f} mm along the spine are too thick for heights; {MAX_VOXEL_MM:g} mm or less is needed"
        )
    body = _without_cut_columns(piece, _fitted_body(piece, above, below))
    bone = None if ct is None else trabecular_bone(ct, body.centre, body.axes, body.footprint, body.top, body.bottom)
    source = piece.affine
    if ct is not None and bone is not None and not bone.foreign:
        frame = (ct, body.centre, body.axes)
        top = endplate_from_ct(*frame, body.top, body.footprint, body.gaps[0], 1)
        bottom = endplate_from_ct(*frame, body.bottom, body.footprint, body.gaps[1], -1)
        if top is not None and bottom is not None:
            body, source = replace(body, top=top, bottom=bottom), ct.affine
    heights = heights_from_columns(body.top - body.bottom, body.footprint, body.depth)
    spread = _spread(body, voxel_along(source, body.axes[:, 0]))
    # Half a voxel to both sides, uniform, is 1 / sqrt(12) of a voxel; phantoms: docs/history/genant_heights.md.
    sd = np.hypot(spread, voxel_along(source, body.axes[:, 2]) / np.sqrt(12))
    foreign = bone is not None and bone.foreign
    return BodyMeasurement(
        heights_mm=_triple((heights.anterior, heights.middle, heights.posterior)),
        heights_sd_mm=_triple(sd * (METAL_FACTOR if foreign else 1.0)),
        trabecular_hu=NAN if bone is None else bone.mean,
        trabecular_hu_sd=NAN if bone is None else bone.sd,
        body_volume_ml=float((body.top - body.bottom)[body.footprint].sum() * STEP_MM**2 / 1000),
        centroid_mm=_triple(body.centre),
        note=METAL_NOTE if foreign else "",
    )


def _triple(values: Sequence[float] | NDArray) -> Triple:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _measurements(
    labels: NDArray,
    affine: NDArray,
    order: Sequence[int],
    chosen: Sequence[int],
    body: NDArray | None,
    hu: NDArray | CtSampler | None,
) -> dict[int, BodyMeasurement]:
    """Measurements of the ``chosen`` vertebrae of an ``order`` from head to feet."""
    affine = np.asarray(affine, float)
    labels = labels if np.issubdtype(labels.dtype, np.integer) else labels.astype(np.uint8)
    ct = hu if hu is None or isinstance(hu, CtSampler) else CtSampler(hu, affine)
    boxes = ndimage.find_objects(labels)
    pieces: dict[int, VertebraPiece | FrameError] = {}
    for label in order:
        try:
            pieces[label] = cut_out(labels, affine, label, boxes[label - 1] if 0 < label <= len(boxes) else None, body)
        except FrameError as error:
            pieces[label] = error
    results = {}
    for k, label in enumerate(order):
        piece = pieces[label]
        if label not in chosen:
            continue
        if isinstance(piece, FrameError):
            results[label] = BodyMeasurement(note=str(piece))
            continue
        # Of a neighbour that is cut by the border, the mask may contain only posterior elements.
        centres = [
            other.centre if isinstance(other, VertebraPiece) and other.radius > MIN_RADIUS_FRACTION * piece.radius else None
            for other in (pieces[order[i]] if 0 <= i < len(order) else None for i in (k - 1, k + 1))
        ]
        try:
            results[label] = _measure(piece, centres[0], centres[1], ct)
        except FrameError as error:
            results[label] = BodyMeasurement(centroid_mm=_triple(piece.centre), note=str(error))
    return results


def measure_vertebrae(
    labels: NDArray, affine: NDArray, order: Sequence[int], *, body: NDArray | None = None, hu: NDArray | CtSampler | None = None
) -> dict[int, BodyMeasurement]:
    """Measure all vertebrae of a scan.

    Heights are means of columns between the endplates in the anterior, middle and posterior zone of the mid-sagittal third
    (``core.genant.heights_from_columns``), in the frame of the vertebra. With ``hu`` the CT places the endplates near those of the
    mask (``endplate_from_ct``); without it, or without contrast, they are the interpolated surface of the mask or probability.
    Standard deviations join the spread over sagittal slices, as a standard error of independent slices, and half a voxel of height.

    Args:
        labels: (X, Y, Z) instance mask in any orientation, whole numbers from 1.
        affine: (4, 4) voxel to world (R, A, S) in mm.
        order: instances from head to feet.
        body: (X, Y, Z) probability or mask of vertebral bodies on the same grid; without it the solid part of the instance.
        hu: (X, Y, Z) HU on the same grid, or a sampler of the original scan on its own grid.

    Returns:
        Measurement by instance. What cannot be measured is NaN with a reason in ``note``.
    """
    return _measurements(labels, affine, list(order), list(order), body, hu)


def measure_vertebra(
    labels: NDArray,
    affine: NDArray,
    label: int,
    above: int | None = None,
    below: int | None = None,
    *,
    body: NDArray | None = None,
    hu: NDArray | CtSampler | None = None,
) -> BodyMeasurement:
    """Measure one vertebra, as ``measure_vertebrae`` does.

    Args:
        labels: (X, Y, Z) instance mask in any orientation, whole numbers from 1.
        affine: (4, 4) voxel to world (R, A, S) in mm.
        label: value of the vertebra.
        above: value of the next vertebra towards the head, if there is one.
        below: value of the next vertebra towards the feet, if there is one.
        body: (X, Y, Z) probability or mask of vertebral bodies on the same grid.
        hu: (X, Y, Z) HU on the same grid, or a sampler of the original scan.
    """
    order = [v for v in (above, label, below) if v is not None]
    return _measurements(labels, affine, order, [label], body, hu)[label]
