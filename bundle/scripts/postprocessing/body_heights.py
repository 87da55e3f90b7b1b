# SPDX-License-Identifier: Apache-2.0
"""Heights of vertebral bodies in mm with their uncertainty, HU of the trabecular bone and volume, from instances, bodies and CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.genant import ZONES, central_third
from ..core.threads import map_in_threads
from .body_frame import BodyColumns, fitted_body, gaps_to_neighbours, tilt_error, without_cut_columns
from .endplate_edges import CtSampler, endplate_from_ct
from .trabecular import trabecular_bone
from .vertebra_frame import MIN_RADIUS_FRACTION, STEP_MM, FrameError, body_axes
from .vertebra_piece import VertebraPiece, cut_out

MAX_VOXEL_MM = 4.0  # along the spine; in thicker slices one slice more or less is a grade
CORRELATION_MM = 4.0  # of the surface of an endplate; closer sagittal slices are not independent
METAL_FACTOR = 2.0  # of the standard deviations beside metal or cement
PREDICTED_SD_MM = 1.0  # of an endplate at half of a network's probability (docs/history/genant_heights.md)
PREDICTED_NOTE = "endplate not clear in the CT: heights by the predicted surface, which is too low"
METAL_NOTE = "metal or cement: heights and HU uncertain"
NAN = float("nan")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class BodyMeasurement:
    """Measurement of one vertebral body. NaN is unknown, and ``note`` is the reason.

    Attributes:
        heights_mm: anterior, middle and posterior height.
        heights_sd_mm: their standard deviations: spread over sagittal slices, tilt, position of the endplates within a voxel.
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


def voxel_along(affine: NDArray, direction: NDArray) -> float:
    """Extent (mm) of a voxel of an affine (4, 4) along a unit vector (3,) in world coordinates."""
    return float(np.linalg.norm(affine[:3, :3].T @ direction))


def _spread(body: BodyColumns, lateral_voxel: float) -> NDArray[np.floating]:
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


def _measure(
    piece: VertebraPiece, above: NDArray | None, below: NDArray | None, ct: CtSampler | None, predicted: bool
) -> BodyMeasurement:
    """Measure the body of a piece, which is ``predicted`` by a network or drawn.

    Raises:
        FrameError: when it cannot be measured.
    """
    up = body_axes(piece.centre, piece.centroid, above, below)[:, 2]
    voxel = max(voxel_along(a, up) for a in (piece.affine, *((ct.affine,) if ct is not None else ())))
    if voxel > MAX_VOXEL_MM:
        raise FrameError(
            f"voxels of {voxel:.1f} mm along the spine are too thick for heights; {MAX_VOXEL_MM:g} mm or less is needed"
        )
    body = without_cut_columns(piece, fitted_body(piece, above, below))
    tilt = tilt_error(piece, body)
    bone = None if ct is None else trabecular_bone(ct, body.centre, body.axes, body.footprint, body.top, body.bottom)
    foreign = bone is not None and bone.foreign
    placed, source = 0, piece.affine
    if ct is not None and not foreign:
        gaps = gaps_to_neighbours(piece, body)
        frame = (ct, body.centre, body.axes, body.footprint)
        top = endplate_from_ct(*frame, body.top, gaps[0], 1)
        bottom = endplate_from_ct(*frame, body.bottom, gaps[1], -1)
        placed = (top is not None) + (bottom is not None)
        body = replace(body, top=body.top if top is None else top, bottom=body.bottom if bottom is None else bottom)
        source = ct.affine if placed == 2 else max((piece.affine, ct.affine), key=lambda a: voxel_along(a, body.axes[:, 2]))
    spread = np.hypot(_spread(body, voxel_along(source, body.axes[:, 0])), tilt)
    # Half a voxel to both sides, uniform, is 1 / sqrt(12) of a voxel; phantoms: docs/history/genant_heights.md.
    sd = np.hypot(spread, voxel_along(source, body.axes[:, 2]) / np.sqrt(12))
    notes = [METAL_NOTE] if foreign else []
    if predicted and placed < 2:
        sd = np.hypot(sd, PREDICTED_SD_MM * np.sqrt(2 - placed))
        notes += [PREDICTED_NOTE] if ct is not None and not foreign else []
    return BodyMeasurement(
        heights_mm=_triple(body.heights),
        heights_sd_mm=_triple(sd * (METAL_FACTOR if foreign else 1.0)),
        trabecular_hu=NAN if bone is None else bone.mean,
        trabecular_hu_sd=NAN if bone is None else bone.sd,
        body_volume_ml=float((body.top - body.bottom)[body.footprint].sum() * STEP_MM**2 / 1000),
        centroid_mm=_triple(body.centre),
        note="; ".join(notes),
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
    predicted = body is not None and np.issubdtype(body.dtype, np.floating)
    boxes = ndimage.find_objects(labels)

    def piece_of(label: int) -> VertebraPiece | FrameError:
        try:
            return cut_out(labels, affine, label, boxes[label - 1] if 0 < label <= len(boxes) else None, body)
        except FrameError as error:
            return error

    pieces = dict(zip(order, map_in_threads(piece_of, order), strict=True))

    def measured(label: int) -> BodyMeasurement:
        piece, k = pieces[label], order.index(label)
        if isinstance(piece, FrameError):
            return BodyMeasurement(note=str(piece))
        # Of a neighbour that is cut by the border, the mask may contain only posterior elements.
        centres = [
            other.centre if isinstance(other, VertebraPiece) and other.radius > MIN_RADIUS_FRACTION * piece.radius else None
            for other in (pieces[order[i]] if 0 <= i < len(order) else None for i in (k - 1, k + 1))
        ]
        try:
            return _measure(piece, centres[0], centres[1], ct, predicted)
        except FrameError as error:
            return BodyMeasurement(centroid_mm=_triple(piece.centre), note=str(error))

    return dict(zip(chosen, map_in_threads(measured, chosen), strict=True))


def measure_vertebrae(
    labels: NDArray, affine: NDArray, order: Sequence[int], *, body: NDArray | None = None, hu: NDArray | CtSampler | None = None
) -> dict[int, BodyMeasurement]:
    """Measure all vertebrae of a scan.

    Heights are means of columns between the endplates in the anterior, middle and posterior zone of the mid-sagittal third
    (``core.genant.heights_from_columns``), in the frame of the vertebra. With ``hu`` the CT places the endplates near those of the
    mask (``endplate_from_ct``); without it, or without contrast, they are the interpolated surface of the mask or probability.
    Standard deviations join the spread over sagittal slices, as a standard error of independent slices, a tilt of the axis by 3
    degrees, and half a voxel of height.

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
