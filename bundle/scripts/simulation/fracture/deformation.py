# SPDX-License-Identifier: Apache-2.0
"""Simulated vertebral fracture in any CT with a mask of vertebra instances: displacement and change of density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...core.genant import LOSS_BANDS, SHAPES, SIMULATED_LOSS, BodyHeights, grade_of
from ...core.vertebrae import LEVELS, spine_order
from ...postprocessing.vertebra_frame import (
    HALF_EXTENT_MM,
    STEP_MM,
    FrameError,
    VertebraFrame,
    axis_samples,
    find_frame,
    frame_points,
    measure_heights,
)
from ..spine_scan import SpineScan, to_hu
from .disc_visibility import require_visible_discs
from .displacement import calibrated_displacement, sample_loss_pattern, warp_in_frame

BAND_MARGIN = 0.002  # between the measured loss and the borders of the band of a grade
# Range of the fraction of the loss at the upper endplate, by shape.
UPPER_FRACTION = {"wedge": (0.55, 0.9), "biconcave": (0.35, 0.65), "crush": (0.4, 0.7)}


@dataclass(frozen=True)
class FracturePlan:
    """Fracture to simulate.

    Attributes:
        label: value of the vertebra in the instance mask.
        shape: "wedge", "biconcave" or "crush".
        grade: Genant grade, 1 to 3.

    Raises:
        ValueError: for another shape or grade.
    """

    label: int
    shape: str
    grade: int

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"FracturePlan: shape={self.shape!r} must be one of {', '.join(SHAPES)}.")
        if self.grade not in LOSS_BANDS:
            raise ValueError(f"FracturePlan: grade={self.grade} must be 1, 2 or 3.")


def _density_change(
    rng: np.random.Generator, frame: VertebraFrame, field: NDArray, pattern: NDArray, upper_fraction: float
) -> tuple[NDArray[np.float64], str]:
    """Change of density by the fracture, (X, Y, T) in HU, and its kind: impaction, sclerosis or lucency."""
    t = axis_samples(2)[None, None, :]
    body = warp_in_frame(frame.mask, field) * (frame.footprint[..., None])
    compression = np.clip(np.gradient(field, STEP_MM, axis=2), 0, None)
    change = 130.0 * rng.uniform(0.3, 1.0) * compression
    kind = str(rng.choice(["impaction", "sclerosis", "lucency"], p=[0.4, 0.4, 0.2]))
    index_of_top = np.clip(np.round((frame.top + HALF_EXTENT_MM[2]) / STEP_MM).astype(int), 0, t.size - 1)
    drop = np.take_along_axis(field, index_of_top[..., None], 2)[..., 0]
    wave = ndimage.gaussian_filter(rng.standard_normal(frame.top.shape), 5.0)
    wave = 1.5 * wave / max(wave.std(), 1e-6)
    upper = upper_fraction >= 0.5
    endplate = frame.top - np.maximum(drop, 0) - upper_fraction * 4 if upper else frame.bottom + (1 - upper_fraction) * 4
    depth = (endplate[..., None] - t) * (1 if upper else -1) - wave[..., None]
    if kind == "sclerosis":
        band = np.exp(-(((depth - rng.uniform(3, 6)) / rng.uniform(1.5, 3.0)) ** 2))
        change = change + rng.uniform(90, 260) * band * pattern[..., None]
    elif kind == "lucency":
        line = np.exp(-(((depth - rng.uniform(3, 7)) / 0.9) ** 2))
        change = change - rng.uniform(120, 240) * line * (pattern[..., None] > 0.3)
    return change * body, kind


def simulate_fracture(
    scan: SpineScan,
    plan: FracturePlan,
    rng: np.random.Generator,
    above: int | None = None,
    below: int | None = None,
    visible_discs: bool = False,
) -> SpineScan:
    """Fracture one vertebra of a scan.

    Args:
        scan: CT with vertebra instances, any orientation; it is not changed.
        plan: vertebra, shape and grade.
        rng: random number generator.
        above: label of the next vertebra towards the head; from the mask when both are None.
        below: label of the next vertebra towards the feet.
        visible_discs: refuse a vertebra beside a disc with the HU of bone, see ``disc_visibility``.

    Returns:
        New scan; ``fractures`` has one more record with label, level, shape, planned and measured grade, relative loss of height at
        the front, middle and back, smallest Jacobian determinant and kind of density change.

    Raises:
        FrameError: when the mask contains no whole body of that vertebra, a disc is not visible, or the loss of height of the
            result is not in the band of the grade.
    """
    if above is None and below is None:
        order = spine_order(scan.labels)
        k = order.index(plan.label) if plan.label in order else -1
        if k < 0:
            raise FrameError(f"vertebra {plan.label} is not in the mask; it contains {order}")
        above, below = (order[k - 1] if k > 0 else None), (order[k + 1] if k + 1 < len(order) else None)
    frame = find_frame(scan.labels, scan.affine, plan.label, above, below)
    if visible_discs:
        require_visible_discs(scan, frame, above, below)
    zone, target = SHAPES[plan.shape], float(rng.uniform(*SIMULATED_LOSS[plan.grade]))
    upper_fraction = float(rng.uniform(*UPPER_FRACTION[plan.shape]))
    pattern = sample_loss_pattern(rng, frame, plan.shape)
    density_rng = np.random.default_rng(int(rng.integers(2**31)))
    low, high = LOSS_BANDS[plan.grade]
    intact = measure_heights(frame.mask, frame.footprint, frame.depth)
    correction = 0.0
    for _ in range(4):
        field = calibrated_displacement(frame, pattern, upper_fraction, zone, target + correction)
        _, labels = _apply(scan, frame, field, None)
        loss = _measure_result(labels, scan.affine, frame).loss_from(intact)
        if low + BAND_MARGIN <= loss[zone] < high - BAND_MARGIN:
            break
        correction += float(np.clip(target - loss[zone], -0.05, 0.05))
    else:
        raise FrameError(
            f"vertebra {plan.label}: a {plan.shape} fracture of grade {plan.grade} resulted in {loss[zone]:.0%} loss of height; "
            "the voxels are too coarse or the body is incomplete"
        )
    change, kind = _density_change(density_rng, frame, field, pattern, upper_fraction)
    image, labels = _apply(scan, frame, field, change)
    record = {
        "label": plan.label,
        "level": LEVELS.get(plan.label, str(plan.label)),
        "shape": plan.shape,
        "grade": plan.grade,
        "measured_grade": grade_of(loss[zone]),
        **{f"loss_{name}": round(value, 4) for name, value in loss.items()},
        "min_jacobian": round(float((1 + np.gradient(field, STEP_MM, axis=2)).min()), 4),
        "density": kind,
    }
    return SpineScan(image, labels, scan.affine, [*scan.fractures, record])


def _voxel_box(frame: VertebraFrame, affine: NDArray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices of the voxels of a scan that a frame covers."""
    corners = np.array([[(-e, e)[b] for b, e in zip(bits, HALF_EXTENT_MM, strict=True)] for bits in np.ndindex(2, 2, 2)])
    inverse = np.linalg.inv(affine)
    voxels = (corners @ frame.axes.T + frame.centre) @ inverse[:3, :3].T + inverse[:3, 3]
    return tuple(
        slice(max(int(np.floor(a)), 0), min(int(np.ceil(b)) + 1, n))
        for a, b, n in zip(voxels.min(0), voxels.max(0), shape, strict=True)
    )


def _apply(scan: SpineScan, frame: VertebraFrame, field: NDArray, change: NDArray | None) -> tuple[NDArray[np.int16], NDArray]:
    """Image and labels of a scan, warped by a displacement.

    Args:
        scan: intact scan.
        frame: frame of the vertebra.
        field: (X, Y, T) displacement in mm.
        change: (X, Y, T) change of density in HU; None leaves the image as it is, which suffices to measure the labels.
    """
    box = _voxel_box(frame, scan.affine, scan.labels.shape)
    index = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij")).astype(np.float32)
    matrix, origin = scan.affine[:3, :3], scan.affine[:3, 3] - frame.centre
    local = np.tensordot(frame.axes.T @ matrix, index, axes=1) + (frame.axes.T @ origin)[:, None, None, None]
    samples = (local + np.array(HALF_EXTENT_MM)[:, None, None, None]) / STEP_MM
    displacement = ndimage.map_coordinates(field, samples, order=1, cval=0.0)
    moved = np.abs(displacement) > 1e-3
    direction = np.linalg.inv(matrix) @ frame.axes[:, 2]
    source = [index[i][moved] + direction[i] * displacement[moved] for i in range(3)]
    image, labels = scan.image, scan.labels.copy()
    labels[box][moved] = ndimage.map_coordinates(scan.labels, source, order=0, mode="nearest")
    if change is not None:
        image = scan.image.astype(np.float32)
        view = image[box]
        in_box = [s - b.start for s, b in zip(source, box, strict=True)]
        # Cubic splines preserve the texture of the noise.
        view[moved] = ndimage.map_coordinates(view, in_box, order=3, mode="nearest")
        view += ndimage.map_coordinates(change, samples, order=1, cval=0.0)
        image = to_hu(image)
    return image, labels


def _measure_result(labels: NDArray, affine: NDArray, frame: VertebraFrame) -> BodyHeights:
    """Heights in mm of a fractured body, in the frame of the intact one."""
    points = frame_points(frame.centre, frame.axes, affine)
    mask = ndimage.map_coordinates((labels == frame.label).astype(np.float32), points, order=1)
    return measure_heights(mask, frame.footprint, frame.depth)
