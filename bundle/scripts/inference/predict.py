# SPDX-License-Identifier: Apache-2.0
"""Probabilities on the working grid: slices of any plane, neighbouring slices as channels, or 3D windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.data.utils import compute_importance_map
from numpy.typing import NDArray

from ..networks.outputs import NUM_CLASSES
from ..networks.slice_context import slice_offsets
from .runtimes import Runner
from .windows import WindowGrid

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
SAMPLE_BYTES = 96 * 2**20  # of int16 that slices are taken in, at a time
Sampler = Callable[[Sequence[NDArray[np.int64]]], NDArray[np.int16]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class PatchConfig:
    """How a network is shown a scan.

    Args:
        size: voxels of a window; two numbers for slices, three for volumes.
        hu: HU that become 0 and 1.
        overlap: share of a window that it has in common with the next.
        blend: "constant" or "gaussian" weights where windows overlap.
        neighbours: slices on each side that are channels beside the slice itself (2.5D).
        neighbour_step: slices from one of these channels to the next.
        flips: axes of a window to mirror; each entry is one more pass whose probability is averaged with the rest.
        batch: windows that the network is given at once.

    Raises:
        ValueError: for a value out of range.
    """

    size: tuple[int, ...]
    hu: tuple[float, float] = (-200.0, 1000.0)
    overlap: float = 0.25
    blend: str = "constant"
    neighbours: int = 0
    neighbour_step: int = 1
    flips: tuple[tuple[int, ...], ...] = ()
    batch: int = 8
    weights: torch.Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.size) not in (2, 3) or min(self.size) < 16:
            raise ValueError(f"patch_size={list(self.size)}: give two or three numbers of at least 16")
        if self.hu[1] <= self.hu[0]:
            raise ValueError(f"hu_window={list(self.hu)}: the second value must be above the first")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap={self.overlap}: give a share of at least 0 and below 1")
        if self.neighbours < 0 or (self.neighbours and len(self.size) == 3):
            raise ValueError(f"neighbours={self.neighbours}: give 0 or more, and 0 for 3D windows")
        slice_offsets(self.neighbours, self.neighbour_step)
        if any(a not in range(len(self.size)) for axes in self.flips for a in axes):
            raise ValueError(f"flips={self.flips}: give axes of the window, 0 to {len(self.size) - 1}")
        if self.blend not in ("constant", "gaussian"):
            raise ValueError(f"blend={self.blend!r}: give constant or gaussian")
        weights = compute_importance_map(
            self.size, mode=self.blend, sigma_scale=0.125, device="cpu", dtype=torch.float32
        )
        object.__setattr__(self, "weights", weights.clamp_min(1e-3))

    def scaled(self, hu: torch.Tensor) -> torch.Tensor:
        """HU as the network wants them: 0 to 1, float32."""
        low, high = self.hu
        return ((hu.float() - low) / (high - low)).clamp_(0, 1)


def predict_batch(runners: Sequence[Runner], batch: torch.Tensor, window: PatchConfig) -> torch.Tensor:
    """Mean opinion of networks and mirrored passes on a batch (B, C, *size): logits (B, 1, *size) of the fracture, or with those of
    vertebra behind them (B, 2, *size), where every network tells vertebra, too.

    A single opinion is returned as it is; several are averaged as probabilities.
    """
    outputs = []
    for runner in runners:
        for axes in ((), *window.flips):
            dims = [a + 2 for a in axes]
            logits = runner(batch.flip(dims) if dims else batch)
            # The sigmoid of the difference is the softmax of the fracture.
            opinion = torch.cat([logits[:, 1:NUM_CLASSES] - logits[:, :1], logits[:, NUM_CLASSES:]], dim=1).float()
            outputs.append(opinion.flip(dims) if dims else opinion)
    if len(outputs) == 1:
        return outputs[0]
    told = min(o.shape[1] for o in outputs)
    mean = torch.stack([torch.sigmoid(o[:, :told]) for o in outputs]).mean(0)
    return torch.logit(mean, eps=1e-7)


def _padded(image: torch.Tensor, grid: WindowGrid, window: PatchConfig) -> torch.Tensor:
    """Pad scaled slices (..., *size) to at least a window with the lower end of the HU window."""
    pads: list[int] = []
    for n, p, b in zip(reversed(grid.size), reversed(grid.padded), reversed(grid.before), strict=True):
        pads.extend([b, p - n - b])
    return torch.nn.functional.pad(image, pads) if any(pads) else image


def predict_slices(
    sampler: Sampler,
    shape: Sequence[int],
    axis: int,
    wanted: dict[int, list[tuple[int, ...]]],
    grid: WindowGrid,
    window: PatchConfig,
    runners: Sequence[Runner],
    progress: Progress | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Probabilities of slices of one plane.

    Args:
        sampler: gives HU at chosen indices along R, A, S.
        shape: voxels of the working grid.
        axis: of the slices: 0 sagittal, 1 coronal, 2 axial.
        wanted: windows by slice.
        grid: windows of a slice.
        window: how the network sees them.
        runners: networks.
        progress: called with the number of windows done.

    Yields:
        Slice and its probabilities on the two other axes, (1, *size) of the fracture or (2, *size) with those of vertebra; 0 where
        no window was asked for.
    """
    others = [a for a in range(3) if a != axis]
    full: list[NDArray[np.int64]] = [np.arange(n) for n in shape]
    # A chunk's slices may all lie apart, as in the first look, and each brings its neighbours.
    channels = 2 * window.neighbours + 1
    per_chunk = max(SAMPLE_BYTES // (2 * channels * int(np.prod([shape[a] for a in others]))), 1)
    slices = sorted(k for k, starts in wanted.items() if starts)
    beside = np.array(slice_offsets(window.neighbours, window.neighbour_step))
    crop = tuple(slice(b, b + n) for b, n in zip(grid.before, grid.size, strict=True))
    for first in range(0, len(slices), per_chunk):
        chunk = slices[first : first + per_chunk]
        needed = np.unique(np.clip(np.add.outer(chunk, beside), 0, shape[axis] - 1))
        indices = list(full)
        indices[axis] = needed
        hu = np.moveaxis(sampler(indices), axis, 0)
        jobs = [(k, start) for k in chunk for start in wanted[k]]
        left = {k: len(wanted[k]) for k in chunk}
        sums: dict[int, torch.Tensor] = {}
        ready: dict[int, torch.Tensor] = {}
        for at in range(0, len(jobs), window.batch):
            part = jobs[at : at + window.batch]
            for k in {k for k, _ in part} - set(ready):
                places = k + beside
                rows = np.searchsorted(needed, np.clip(places, 0, shape[axis] - 1))
                seen = window.scaled(torch.from_numpy(np.ascontiguousarray(hu[rows])))
                seen[torch.from_numpy((places < 0) | (places >= shape[axis]))] = 0
                ready[k] = _padded(seen, grid, window)
            batch = torch.stack([ready[k][(slice(None), *_box(s, window.size))] for k, s in part])
            for (k, start), opinion in zip(part, predict_batch(runners, batch, window), strict=True):
                if k not in sums:
                    sums[k] = torch.zeros(len(opinion) + 1, *grid.padded)
                box = (slice(None), *_box(start, window.size))
                sums[k][:-1][box] += opinion.cpu() * window.weights
                sums[k][-1:][box] += window.weights
                left[k] -= 1
            if progress is not None:
                progress(len(part))
            for k in [k for k in sums if left[k] == 0]:
                total = sums.pop(k)
                ready.pop(k)
                yield k, _chances(total)[(slice(None), *crop)].numpy()


def _chances(sums: torch.Tensor) -> torch.Tensor:
    """Probabilities (K, *size) of weighted sums of logits with the sum of weights behind them (K + 1, *size)."""
    total, weight = sums[:-1], sums[-1:]
    return torch.where(weight > 0, torch.sigmoid(total / weight.clamp_min(1e-9)), 0.0)


def _box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))


def predict_volume(
    sampler: Sampler,
    shape: Sequence[int],
    wanted: Sequence[tuple[int, ...]],
    grid: WindowGrid,
    window: PatchConfig,
    runners: Sequence[Runner],
    progress: Progress | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Probabilities of 3D windows, given out sagittal slice by sagittal slice as soon as no later window reaches it.

    Args and result as of ``predict_slices``; ``wanted`` holds the windows' starts.
    """
    rows: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for start in wanted:
        rows[start[0]].append(tuple(start))
    depth, size = window.size[0], grid.padded[1:]
    sums, told = torch.zeros(0), 0
    base = 0
    crop = tuple(slice(b, b + n) for b, n in zip(grid.before[1:], grid.size[1:], strict=True))
    order = sorted(rows)
    for number, first in enumerate(order):
        if number == 0:
            base = first
        inside = np.clip(np.arange(first, first + depth) - grid.before[0], -1, shape[0])
        held = np.unique(inside[(inside >= 0) & (inside < shape[0])])
        hu = window.scaled(torch.from_numpy(sampler([held, np.arange(shape[1]), np.arange(shape[2])])))
        image = torch.zeros(depth, *size)
        offset = int(np.argmax(inside >= 0))
        middle = (slice(offset, offset + len(held)), *crop)
        image[middle] = hu
        starts = rows[first]
        for at in range(0, len(starts), window.batch):
            part = starts[at : at + window.batch]
            batch = torch.stack([image[(slice(None), *_box(s[1:], window.size[1:]))][None] for s in part])
            answer = predict_batch(runners, batch, window)
            if not told:
                told = answer.shape[1]
                sums = torch.zeros(told + 1, 0, *size)
            sums = torch.cat([sums, torch.zeros(told + 1, first + depth - (base + sums.shape[1]), *size)], dim=1)
            for start, opinion in zip(part, answer, strict=True):
                box = (slice(None), slice(first - base, first - base + depth), *_box(start[1:], window.size[1:]))
                sums[:-1][box] += opinion.cpu() * window.weights
                sums[-1:][box] += window.weights
            if progress is not None:
                progress(len(part))
        until = order[number + 1] if number + 1 < len(order) else first + depth
        done = min(until, first + depth) - base
        for n in range(done):
            index = base + n - grid.before[0]
            if 0 <= index < shape[0]:
                yield index, _chances(sums[:, n])[(slice(None), *crop)].numpy()
        whole = until >= first + depth
        sums, base = (sums[:, :0], until) if whole else (sums[:, done:].clone(), base + done)
