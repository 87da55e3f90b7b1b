# SPDX-License-Identifier: Apache-2.0
"""Vertebral bodies of a mask of vertebra instances, separated from the posterior elements by the frame of each vertebra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects

from .vertebra_frame import MIN_HEIGHT_MM, STEP_MM, FrameError, axis_samples, find_frame

RIM_MM = 4.0  # of a body beyond the columns and endplates of its frame: osteophytes, the uncinate process
POSTERIOR_WALL = -0.02  # position between posterior and anterior wall where the pedicles begin
CROP_MARGIN_MM = 20.0


def _crop(boxes: Sequence[tuple[slice, ...] | None], shape: Sequence[int], spacing: NDArray) -> tuple[slice, ...]:
    """Box around several boxes with a margin."""
    present = [b for b in boxes if b is not None]
    margin = np.ceil(CROP_MARGIN_MM / spacing).astype(int)
    return tuple(
        slice(max(min(b[a].start for b in present) - int(margin[a]), 0), min(max(b[a].stop for b in present) + int(margin[a]), n))
        for a, n in enumerate(shape)
    )


def vertebral_bodies(
    labels: NDArray, affine: NDArray[np.floating], order: Sequence[int]
) -> tuple[NDArray[np.bool_], dict[int, str]]:
    """Voxels of the bodies, and the vertebrae whose body is unknown.

    Args:
        labels: (X, Y, Z) instance mask in any orientation, values 1 to 255.
        affine: (4, 4) voxel to world (R, A, S) in mm.
        order: vertebrae from head to feet.

    Returns:
        Mask (X, Y, Z), and the reason by label for vertebrae without a whole body in the mask; nothing is marked in them.
    """
    affine = np.asarray(affine, float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    stride = np.maximum(np.floor(STEP_MM / spacing), 1).astype(int)  # a frame has no use for finer voxels than its samples
    found = find_objects(labels)
    boxes = {v: found[v - 1] if v - 1 < len(found) else None for v in order}
    bodies, unknown = np.zeros(labels.shape, bool), {}
    for n, label in enumerate(order):
        box = boxes[label]
        if box is None:
            unknown[label] = f"vertebra {label} is not in the mask"
            continue
        above = order[n - 1] if n else None
        below = order[n + 1] if n + 1 < len(order) else None
        crop = _crop([boxes[v] for v in (above, label, below) if v is not None], labels.shape, spacing)
        local = affine.copy()
        local[:3, 3] = affine[:3, :3] @ [s.start for s in crop] + affine[:3, 3]
        coarse = local.copy()
        coarse[:3, :3] *= stride
        part = labels[crop]
        sampled = np.ascontiguousarray(part[tuple(slice(None, None, n) for n in stride)])
        try:
            upper, lower = (v if v is not None and boxes[v] is not None else None for v in (above, below))
            frame = find_frame(sampled, coarse, label, upper, lower, limits=False, min_height_mm=MIN_HEIGHT_MM)
        except FrameError as error:
            unknown[label] = str(error)
            continue
        voxels = np.argwhere(part == label)
        points = (voxels @ local[:3, :3].T + local[:3, 3] - frame.centre) @ frame.axes
        columns = [
            np.clip(np.round(points[:, a] / STEP_MM).astype(int) + len(axis_samples(a)) // 2, 0, len(axis_samples(a)) - 1)
            for a in (0, 1)
        ]
        footprint = binary_dilation(frame.footprint, iterations=round(RIM_MM / STEP_MM))
        x, y = columns
        inside = footprint[x, y] & (frame.depth[x, y] > POSTERIOR_WALL)
        inside &= (points[:, 2] < frame.top[x, y] + RIM_MM) & (points[:, 2] > frame.bottom[x, y] - RIM_MM)
        view = bodies[crop]
        view[tuple(voxels[inside].T)] = True
    return bodies, unknown
