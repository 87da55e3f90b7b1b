# SPDX-License-Identifier: Apache-2.0
"""Simulated vertebral fractures: compress one body along the spine in any CT that has a mask of vertebra instances.

All displacement runs along the axis of the vertebra, and along every line parallel to it the map is increasing. Its Jacobian
determinant is then the derivative along that axis and positive everywhere, whatever the pattern across the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...core.genant import LOSS_BANDS, SHAPES, SIMULATED_LOSS, BodyHeights, grade_of
from ...core.vertebrae import LEVELS, spine_order
from ...postprocessing.vertebra_frame import (
    HALF_EXTENT_MM,
    STEP,
    FrameError,
    VertebraFrame,
    axis_samples,
    find_frame,
    frame_points,
    measure_heights,
)
from ..spine_scan import SpineScan

FADE = 9.0  # mm outside the body over which the displacement fades
SMOOTHING = 1.0  # mm, standard deviation of the smoothing of the displacement


@dataclass(frozen=True)
class FracturePlan:
    """What to make of one vertebra.

    Attributes:
        label: value in the instance mask.
        shape: "wedge", "biconcave" or "crush".
        grade: Genant grade, 1 to 3.
    """

    label: int
    shape: str
    grade: int

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"FracturePlan: shape={self.shape!r}; give one of {', '.join(SHAPES)}.")
        if self.grade not in LOSS_BANDS:
            raise ValueError(f"FracturePlan: grade={self.grade}; give 1, 2 or 3.")


def _loss_pattern(rng: np.random.Generator, frame: VertebraFrame, shape: str) -> NDArray[np.float64]:
    """Relative loss of height over the body, (X, Y), 1 where it is greatest."""
    v = np.clip(frame.depth, 0, 1)
    half_width = max(np.abs(axis_samples(0)[frame.footprint.any(axis=1)]).max(), 1.0)
    u = (axis_samples(0) / half_width)[:, None]
    if shape == "wedge":
        pattern = rng.uniform(0.05, 0.22) + np.clip(v, 0, 1) ** rng.uniform(0.8, 1.4)
        pattern = pattern * (1 + rng.uniform(-0.12, 0.12) * u)
    elif shape == "biconcave":
        pattern = np.exp(-(((v - rng.uniform(0.44, 0.54)) / rng.uniform(0.27, 0.34)) ** 2) - (u / 1.1) ** 4)
        pattern = pattern + rng.uniform(0.02, 0.12)
    else:
        pattern = 1 + rng.uniform(-0.12, 0.12) * (v - 0.5) + rng.uniform(-0.08, 0.08) * u
    rough = ndimage.gaussian_filter(rng.standard_normal(v.shape), 4.0)
    pattern = pattern * (1 + 0.09 * rough / max(rough.std(), 1e-6))
    return np.clip(pattern / pattern[frame.footprint].max(), 0.0, None)


def _pull_back(frame: VertebraFrame, loss: NDArray, share: float) -> NDArray[np.float64]:
    """Displacement (X, Y, T) in mm along the axis: the result at t shows what was at t plus this.

    Args:
        frame: frame of the intact vertebra.
        loss: (X, Y) relative loss of height, below 1.
        share: part of the loss that the upper endplate takes.
    """
    outside = ndimage.distance_transform_edt(~frame.footprint) * STEP
    weight = np.where(outside < FADE, 0.5 + 0.5 * np.cos(np.pi * np.minimum(outside, FADE) / FADE), 0.0)
    total = np.minimum(loss, 0.8) * weight * (frame.top - frame.bottom)
    down, up = share * total, (1 - share) * total
    t = axis_samples(2)[None, None, :]
    low, high = (frame.bottom + up)[..., None], (frame.top - down)[..., None]
    floor, ceiling = frame.floor[..., None], frame.ceiling[..., None]
    inside = -up[..., None] + (up + down)[..., None] * (t - low) / np.maximum(high - low, 1e-6)
    below = -up[..., None] * (t - floor) / np.maximum(low - floor, 1e-6)
    above = down[..., None] * (ceiling - t) / np.maximum(ceiling - high, 1e-6)
    field = np.where(t < low, np.maximum(below, -up[..., None]), np.where(t > high, above, inside))
    field = np.where((t <= floor) | (t >= ceiling), 0.0, field)
    return ndimage.gaussian_filter(field, SMOOTHING / STEP)


def _warp_along_axis(mask: NDArray, field: NDArray) -> NDArray[np.float32]:
    index = np.arange(mask.shape[2])[None, None, :] + field / STEP
    low = np.clip(np.floor(index).astype(int), 0, mask.shape[2] - 2)
    part = np.clip(index - low, 0, 1).astype(np.float32)
    return np.take_along_axis(mask, low, 2) * (1 - part) + np.take_along_axis(mask, low + 1, 2) * part


def _calibrate(frame: VertebraFrame, pattern: NDArray, share: float, zone: str, aim: float) -> NDArray[np.float64]:
    """Find the displacement whose measured loss in ``zone`` is ``aim``: scale, warp the mask, measure, correct."""
    intact, scale = measure_heights(frame.mask, frame.footprint, frame.depth), aim
    field = np.zeros_like(frame.mask, dtype=float)
    for _ in range(6):
        field = _pull_back(frame, scale * pattern, share)
        got = measure_heights(_warp_along_axis(frame.mask, field), frame.footprint, frame.depth).loss_from(intact)[zone]
        if abs(got - aim) < 0.003:
            break
        scale *= float(np.clip(aim / max(got, 1e-3), 0.6, 1.7))
    return field


def _density(
    rng: np.random.Generator, frame: VertebraFrame, field: NDArray, loss_share: NDArray, share: float
) -> tuple[NDArray[np.float64], str]:
    """Change in HU (X, Y, T) that comes with the fracture, and its name: impaction, sclerosis or a lucent line."""
    t = axis_samples(2)[None, None, :]
    body = _warp_along_axis(frame.mask, field) * (frame.footprint[..., None])
    squeeze = np.clip(np.gradient(field, STEP, axis=2), 0, None)
    change = 130.0 * rng.uniform(0.3, 1.0) * squeeze
    kind = str(rng.choice(["impaction", "sclerosis", "lucency"], p=[0.4, 0.4, 0.2]))
    drop = np.take_along_axis(
        field, np.clip(np.round((frame.top + 46) / STEP).astype(int), 0, t.size - 1)[..., None], 2
    )
    wave = ndimage.gaussian_filter(rng.standard_normal(frame.top.shape), 5.0)
    wave = 1.5 * wave / max(wave.std(), 1e-6)
    upper = share >= 0.5
    plate = frame.top - np.maximum(drop[..., 0], 0) - share * 4 if upper else frame.bottom + (1 - share) * 4
    depth = (plate[..., None] - t) * (1 if upper else -1) - wave[..., None]
    if kind == "sclerosis":
        band = np.exp(-(((depth - rng.uniform(3, 6)) / rng.uniform(1.5, 3.0)) ** 2))
        change = change + rng.uniform(90, 260) * band * loss_share[..., None]
    elif kind == "lucency":
        line = np.exp(-(((depth - rng.uniform(3, 7)) / 0.9) ** 2))
        change = change - rng.uniform(120, 240) * line * (loss_share[..., None] > 0.3)
    return change * body, kind


def simulate_fracture(
    scan: SpineScan, plan: FracturePlan, rng: np.random.Generator, above: int | None = None, below: int | None = None
) -> SpineScan:
    """Return a scan in which one vertebra is fractured; the input stays as it is.

    Args:
        scan: CT in HU with instance labels, any orientation.
        plan: which vertebra, which shape, which grade.
        rng: source of randomness.
        above: label of the next vertebra towards the head; found from the mask when both are None.
        below: label of the next vertebra towards the feet.

    Returns:
        A new scan; ``fractures`` has one more entry with label, level, shape, grade asked for, measured loss of height at the
        front, middle and back, smallest Jacobian determinant and kind of density change.

    Raises:
        FrameError: when the mask holds no whole body of that vertebra, or the result misses the grade asked for.
    """
    if above is None and below is None:
        order = spine_order(scan.labels)
        k = order.index(plan.label) if plan.label in order else -1
        if k < 0:
            raise FrameError(f"vertebra {plan.label} is not in the mask; it holds {order}")
        above, below = (order[k - 1] if k > 0 else None), (order[k + 1] if k + 1 < len(order) else None)
    frame = find_frame(scan.labels, scan.affine, plan.label, above, below)
    zone, aim = SHAPES[plan.shape], float(rng.uniform(*SIMULATED_LOSS[plan.grade]))
    share = float(rng.uniform(*{"wedge": (0.55, 0.9), "biconcave": (0.35, 0.65), "crush": (0.4, 0.7)}[plan.shape]))
    pattern = _loss_pattern(rng, frame, plan.shape)
    density_rng = np.random.default_rng(int(rng.integers(2**31)))
    low, high = LOSS_BANDS[plan.grade]
    intact = measure_heights(frame.mask, frame.footprint, frame.depth)
    correction = 0.0
    for _ in range(4):
        field = _calibrate(frame, pattern, share, zone, aim + correction)
        image, labels = _apply(scan, frame, field, None)
        loss = _measure_result(labels, scan.affine, frame).loss_from(intact)
        if low + 0.002 <= loss[zone] < high - 0.002:
            break
        correction += float(np.clip(aim - loss[zone], -0.05, 0.05))
    else:
        raise FrameError(
            f"vertebra {plan.label}: a {plan.shape} fracture of grade {plan.grade} came out with {loss[zone]:.0%} loss of height; "
            "the voxels are too coarse or the body is incomplete"
        )
    change, kind = _density(density_rng, frame, field, pattern, share)
    image, labels = _apply(scan, frame, field, change)
    record = {
        "label": plan.label,
        "level": LEVELS.get(plan.label, str(plan.label)),
        "shape": plan.shape,
        "grade": plan.grade,
        "measured_grade": grade_of(loss[zone]),
        **{f"loss_{name}": round(value, 4) for name, value in loss.items()},
        "min_jacobian": round(float((1 + np.gradient(field, STEP, axis=2)).min()), 4),
        "density": kind,
    }
    return SpineScan(image, labels, scan.affine, [*scan.fractures, record])


def _voxel_box(frame: VertebraFrame, affine: NDArray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    corners = np.array(
        [[(-1, 1)[b] * r for b, r in zip(bits, HALF_EXTENT_MM, strict=True)] for bits in np.ndindex(2, 2, 2)]
    )
    inverse = np.linalg.inv(affine)
    voxels = (corners @ frame.axes.T + frame.centre) @ inverse[:3, :3].T + inverse[:3, 3]
    return tuple(
        slice(max(int(np.floor(a)), 0), min(int(np.ceil(b)) + 1, n))
        for a, b, n in zip(voxels.min(0), voxels.max(0), shape, strict=True)
    )


def _apply(
    scan: SpineScan, frame: VertebraFrame, field: NDArray, change: NDArray | None
) -> tuple[NDArray[np.int16], NDArray]:
    """Warp image and labels. With ``change`` None only the labels, which is all that measuring needs."""
    box = _voxel_box(frame, scan.affine, scan.labels.shape)
    index = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij")).astype(np.float32)
    matrix, origin = scan.affine[:3, :3], scan.affine[:3, 3] - frame.centre
    local = np.tensordot(frame.axes.T @ matrix, index, axes=1) + (frame.axes.T @ origin)[:, None, None, None]
    samples = (local + np.array(HALF_EXTENT_MM)[:, None, None, None]) / STEP
    shift = ndimage.map_coordinates(field, samples, order=1, cval=0.0)
    moved = np.abs(shift) > 1e-3
    step = np.linalg.inv(matrix) @ frame.axes[:, 2]
    source = [index[i][moved] + step[i] * shift[moved] for i in range(3)]
    image, labels = scan.image, scan.labels.copy()
    # Labels are taken by nearest neighbour, the image by cubic splines so that its noise keeps its texture.
    labels[box][moved] = ndimage.map_coordinates(scan.labels, source, order=0, mode="nearest")
    if change is not None:
        image = scan.image.astype(np.float32)
        inner = [s - b.start for s, b in zip(source, box, strict=True)]
        warped = ndimage.map_coordinates(image[box], inner, order=3, mode="nearest")
        view = image[box]
        view[moved] = warped
        view += ndimage.map_coordinates(change, samples, order=1, cval=0.0)
        image = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    return image, labels


def _measure_result(labels: NDArray, affine: NDArray, frame: VertebraFrame) -> BodyHeights:
    points = frame_points(frame.centre, frame.axes, affine)
    mask = ndimage.map_coordinates((labels == frame.label).astype(np.float32), points, order=1)
    return measure_heights(mask, frame.footprint, frame.depth)
