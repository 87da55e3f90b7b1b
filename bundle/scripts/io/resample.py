# SPDX-License-Identifier: Apache-2.0
"""Linear resampling between a stored scan and its working grid, slab by slab and axis by axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .working_grid import Taps, WorkingGrid

SLAB_BYTES = 24 * 2**20  # of float32 in one step of a pass


def _gather(values: torch.Tensor, taps: Taps, dim: int) -> torch.Tensor:
    """Interpolate a tensor linearly along one of its axes."""
    low = values.index_select(dim, torch.from_numpy(taps.low))
    if not taps.weight.any():
        return low
    weight = torch.from_numpy(taps.weight).reshape([-1 if d == dim else 1 for d in range(values.ndim)])
    return torch.lerp(low, values.index_select(dim, torch.from_numpy(taps.high)), weight)


def _relative(taps: Taps) -> tuple[Taps, slice]:
    """Taps relative to the range of the input that they reach, and that range."""
    start, stop = int(min(taps.low.min(), taps.high.min())), int(max(taps.low.max(), taps.high.max())) + 1
    return Taps(taps.low - start, taps.high - start, taps.weight), slice(start, stop)


def _matrix(taps: Taps, length: int) -> torch.Tensor:
    """Taps as a matrix (length, outputs); along the contiguous axis a matrix product is much faster than gathering voxels."""
    matrix, columns = torch.zeros(length, len(taps.low)), torch.arange(len(taps.low))
    weight = torch.from_numpy(taps.weight)
    matrix.index_put_((torch.from_numpy(taps.low), columns), 1 - weight, accumulate=True)
    return matrix.index_put_((torch.from_numpy(taps.high), columns), weight, accumulate=True)


def sample(
    slab: Callable[[int, int], NDArray[np.int16]],
    grid: WorkingGrid,
    indices: Sequence[NDArray[np.int64]],
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.int16]:
    """HU at selected voxels of the working grid, by linear interpolation, in one pass over the scan.

    Args:
        slab: reader of slices ``k0`` to ``k1`` of the stored scan, (K, J, I).
        grid: working grid.
        indices: working voxels along R, A and S; every combination is sampled.
        progress: called with the number of stored slices done.

    Returns:
        HU (R, A, S), int16, C order.
    """
    indices = [np.asarray(i, np.int64) for i in indices]
    out = np.empty([len(i) for i in indices], np.int16)
    if out.size == 0:
        return out
    by_input_axis = {grid.axes[axis]: (axis, grid.taps(axis, index)) for axis, index in enumerate(indices)}
    (axis_i, taps_i), (axis_j, taps_j), (axis_k, taps_k) = (by_input_axis[a] for a in range(3))
    taps_i, columns = _relative(taps_i)
    taps_j, rows = _relative(taps_j)
    order = np.argsort(taps_k.low, kind="stable")
    to_ras = np.empty((3,), int)
    to_ras[[axis_k, axis_j, axis_i]] = 0, 1, 2
    across = _matrix(taps_i, columns.stop - columns.start)
    width = (rows.stop - rows.start) * (columns.stop - columns.start) * 4
    depth = max(SLAB_BYTES // max(width, 1), 2)
    start = 0
    while start < len(order):
        first = int(taps_k.low[order[start]])
        stop = int(np.searchsorted(taps_k.low[order], first + depth, side="left"))
        chosen = order[start:stop]
        last = int(taps_k.high[chosen].max()) + 1
        block = np.ascontiguousarray(slab(first, last)[:, rows, columns])
        values = _gather(torch.from_numpy(block).float() @ across, taps_j, 1)
        along = Taps(taps_k.low[chosen] - first, taps_k.high[chosen] - first, taps_k.weight[chosen])
        values = _gather(values, along, 0).round_().to(torch.int16)
        target = [slice(None)] * 3
        target[axis_k] = chosen  # type: ignore[call-overload]
        out[tuple(target)] = values.numpy().transpose(to_ras)
        if progress is not None:
            progress(last)
        start = stop
    return out


def restore(
    volume: NDArray[np.float16], origin: Sequence[int], grid: WorkingGrid, nearest: NDArray | None = None
) -> Iterator[tuple[int, tuple[slice, slice], NDArray[np.float32], NDArray | None]]:
    """Resample a box of the working grid to the slices of the stored scan, by linear interpolation; 0 outside the box.

    Args:
        volume: values (R, A, S) in the box.
        origin: first voxel of the box in the working grid.
        grid: working grid.
        nearest: labels of the same box, resampled to the nearest voxel.

    Yields:
        For every slice of the stored scan that the box reaches: its index, the rows J and columns I covered, and there the values
        (J, I) and the labels (J, I) or None.
    """
    if volume.size == 0:
        return
    box = [(o, o + n) for o, n in zip(origin, volume.shape, strict=True)]
    reach = {grid.axes[a]: (a, *grid.inverse_range(a, *box[a])) for a in range(3)}
    (axis_i, i0, i1), (axis_j, j0, j1), (axis_k, k0, k1) = (reach[a] for a in range(3))

    def positions(axis: int, start: int, stop: int) -> NDArray[np.float64]:
        inside = np.minimum(grid.inverse_positions(axis, np.arange(start, stop)), grid.shape[axis] - 1)
        return inside - origin[axis] + 1  # padding shifts it by one

    padded = np.pad(volume, 1)
    for axis in range(3):  # the last plane of the grid is repeated, as in MONAI's border padding
        if box[axis][1] == grid.shape[axis]:
            edge, inner = [slice(None)] * 3, [slice(None)] * 3
            edge[axis], inner[axis] = slice(-1, None), slice(-2, -1)
            padded[tuple(edge)] = padded[tuple(inner)]
    taps_i = Taps.at(positions(axis_i, i0, i1), padded.shape[axis_i])
    taps_j = Taps.at(positions(axis_j, j0, j1), padded.shape[axis_j])
    across = _matrix(taps_i, padded.shape[axis_i])
    along = positions(axis_k, k0, k1)
    taps_k = Taps.at(along, padded.shape[axis_k])
    stored_order = padded.transpose(axis_k, axis_j, axis_i)
    near = [np.clip(np.round(p).astype(int) - 1, 0, n - 1) for p, n in (
        (positions(axis_i, i0, i1), volume.shape[axis_i]), (positions(axis_j, j0, j1), volume.shape[axis_j]),
        (along, volume.shape[axis_k]))]  # fmt: skip
    labels = None if nearest is None else nearest.transpose(axis_k, axis_j, axis_i)
    for n, k in enumerate(range(k0, k1)):
        pair = torch.from_numpy(np.ascontiguousarray(stored_order[[taps_k.low[n], taps_k.high[n]]])).float()
        plane = torch.lerp(pair[0], pair[1], float(taps_k.weight[n]))
        if not bool(plane.any()):
            continue
        values = (_gather(plane, taps_j, 0) @ across).numpy()
        label_plane = None if labels is None else labels[near[2][n]][np.ix_(near[1], near[0])]
        yield k, (slice(j0, j1), slice(i0, i1)), values, label_plane


def sample_nearest(
    slab: Callable[[int, int], NDArray[np.int16]], grid: WorkingGrid, indices: Sequence[NDArray[np.int64]]
) -> NDArray[np.uint8]:
    """Labels at selected voxels of the working grid, those of the nearest stored voxel.

    Args:
        slab: reader of slices ``k0`` to ``k1`` of the stored label map, (K, J, I).
        grid: working grid.
        indices: working voxels along R, A and S; every combination is sampled.

    Returns:
        Labels (R, A, S), uint8; values that are no byte become 255 and do not wrap around to another label.
    """
    stored: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * 3
    axis_of = {}
    for axis, index in enumerate(indices):
        taps = grid.taps(axis, np.asarray(index, np.int64))
        stored[grid.axes[axis]] = np.where(taps.weight >= 0.5, taps.high, taps.low)
        axis_of[grid.axes[axis]] = axis
    out = np.zeros([len(i) for i in indices], np.uint8)
    view = out.transpose(axis_of[2], axis_of[1], axis_of[0])
    for n, k in enumerate(stored[2]):
        labels = slab(int(k), int(k) + 1)[0][np.ix_(stored[1], stored[0])]
        view[n] = np.where((labels < 0) | (labels > 255), 255, labels)
    return out
