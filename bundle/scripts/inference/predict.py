# SPDX-License-Identifier: Apache-2.0
"""Probabilities on the working grid: slices of any plane, with neighbouring slices as channels, or 3D windows."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data.utils import compute_importance_map
from numpy.typing import NDArray

from ..core.config_values import require_values
from ..core.deprecations import migrate_arguments
from ..networks.outputs import BACKGROUND, FRACTURE, NUM_CLASSES
from ..networks.slice_context import slice_offsets
from .runtimes import Runner
from .windows import WindowGrid

IDS = {"size": "patch_size", "hu": "hu_window"}  # of the config, by argument
WHOLE = ("neighbours", "neighbour_step", "sw_batch_size")
LATERAL = -1  # the axis of the neighbouring slices, channels of the input
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
SAMPLE_BYTES = 96 * 2**20  # of int16 HU that are resampled at a time
Sampler = Callable[[Sequence[NDArray[np.int64]]], NDArray[np.int16]]
Windows = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class PatchConfig:
    """Patch extraction and intensity window.

    Args:
        size: voxels of a window; two numbers for slices, three for volumes.
        hu: HU that are scaled to 0 and 1.
        outside_hu: HU of what lies outside the scan, within a window or a neighbouring slice; None: the lower end of ``hu``.
        overlap: fraction of a window that it shares with the next.
        blend: "constant" or "gaussian" weights where windows overlap.
        neighbours: slices on each side that are channels besides the slice itself (2.5D).
        neighbour_step: slices from one of these channels to the next.
        flips: axes of a window to mirror; each entry is one more pass, and the probabilities of all passes are averaged. Axis -1
            reverses the order of the neighbouring slices: the pass of the other side of the patient.
        sw_batch_size: windows per batch.

    Raises:
        ValueError: for a value out of range.
    """

    size: tuple[int, ...]
    hu: tuple[float, float] = (-200.0, 1000.0)
    outside_hu: float | None = None
    overlap: float = 0.25
    blend: str = "constant"
    neighbours: int = 0
    neighbour_step: int = 1
    flips: tuple[tuple[int, ...], ...] = ()
    sw_batch_size: int = 8
    weights: torch.Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked = ["size", "hu", "overlap", *WHOLE, "flips", *(["outside_hu"] if self.outside_hu is not None else [])]
        require_values({IDS.get(name, name): getattr(self, name) for name in checked})
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        for name in WHOLE:
            object.__setattr__(self, name, int(getattr(self, name)))
        if len(self.size) not in (2, 3) or min(self.size) < 16:
            raise ValueError(f"patch_size={list(self.size)}: must be two or three numbers of voxels, each at least 16")
        if self.neighbours and len(self.size) == 3:
            raise ValueError(f"neighbours={self.neighbours}: must be 0 or more, and 0 for 3D windows")
        slice_offsets(self.neighbours, self.neighbour_step)
        axes = [*range(len(self.size)), *([LATERAL] if self.neighbours else [])]
        if any(a not in axes for flip in self.flips for a in flip):
            lateral = ", or -1 for the neighbouring slices" if self.neighbours else ""
            raise ValueError(f"flips={self.flips}: must be axes of the window, 0 to {len(self.size) - 1}{lateral}")
        if self.blend not in ("constant", "gaussian"):
            raise ValueError(f"blend={self.blend!r}: must be constant or gaussian")
        weights = compute_importance_map(self.size, mode=self.blend, sigma_scale=0.125, device="cpu", dtype=torch.float32)
        object.__setattr__(self, "weights", weights.clamp_min(1e-3))

    @classmethod
    def from_config(cls, arguments: Mapping[str, Any]) -> PatchConfig:
        """Settings of a config, whose tuples are lists."""
        values = migrate_arguments("scripts.inference.predict.PatchConfig", arguments)
        require_values({IDS.get(name, name): value for name, value in values.items()})
        values |= {name: tuple(values[name]) for name in ("size", "hu") if name in values}
        return cls(**{**values, "flips": tuple(tuple(axes) for axes in values.get("flips", ()))})

    @property
    def num_context_slices(self) -> int:
        """Slices that are channels of one input."""
        return 2 * self.neighbours + 1

    @property
    def outside(self) -> float:
        """Scaled value outside the scan."""
        (low, high), hu = self.hu, self.hu[0] if self.outside_hu is None else self.outside_hu
        return min(max((hu - low) / (high - low), 0.0), 1.0)

    def scale_intensity(self, hu: torch.Tensor) -> torch.Tensor:
        """Scale HU to 0 to 1, float32."""
        low, high = self.hu
        return ((hu.float() - low) / (high - low)).clamp_(0, 1)


def predict_batch(runners: Sequence[Runner], batch: torch.Tensor, patch: PatchConfig) -> torch.Tensor:
    """Logits of the ensemble of networks and mirrored passes.

    Args:
        runners: networks.
        batch: inputs (B, C, *size), scaled.
        patch: mirrored passes.

    Returns:
        Logits (B, 1, *size) of fracture, or (B, 2, *size) with those of vertebra where every network has that output. The logits
        of a single pass are returned unchanged; several are averaged as probabilities.
    """
    outputs = []
    for runner in runners:
        for axes in ((), *patch.flips):
            dims = [a + 2 for a in axes]
            output = runner(batch.flip(dims) if dims else batch)
            dims = [d for d in dims if d != LATERAL + 2]  # the output has one slice
            # The sigmoid of the difference is the softmax of the fracture.
            fracture = output[:, FRACTURE:NUM_CLASSES] - output[:, BACKGROUND:FRACTURE]
            logits = torch.cat([fracture, output[:, NUM_CLASSES:]], dim=1).float()
            outputs.append((logits.flip(dims) if dims else logits).to(_device(runners)))
    if len(outputs) == 1:
        return outputs[0]
    num_outputs = min(o.shape[1] for o in outputs)
    mean = torch.stack([torch.sigmoid(o[:, :num_outputs]) for o in outputs]).mean(0)
    return torch.logit(mean, eps=1e-7)


def _pad(image: torch.Tensor, grid: WindowGrid, value: float) -> torch.Tensor:
    """Pad scaled slices (..., *size) to at least a window."""
    pads: list[int] = []
    for n, p, b in zip(reversed(grid.size), reversed(grid.padded), reversed(grid.before), strict=True):
        pads.extend([b, p - n - b])
    return torch.nn.functional.pad(image, pads, value=value) if any(pads) else image


def _box(start: Sequence[int] | NDArray[np.int64], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))


def _probabilities(sums: torch.Tensor) -> torch.Tensor:
    """Probabilities (K, *size) of weighted sums of logits and, as the last channel, the sum of weights (K + 1, *size)."""
    total, weight = sums[:-1], sums[-1:]
    return torch.where(weight > 0, torch.sigmoid(total / weight.clamp_min(1e-9)), 0.0)


def _device(runners: Sequence[Runner]) -> torch.device:
    """Device of the logits, on which windows are blended."""
    return getattr(runners[0], "device", torch.device("cpu"))


def predict_slices(
    sampler: Sampler,
    shape: Sequence[int],
    axis: int,
    windows: Mapping[int, Windows],
    grid: WindowGrid,
    patch: PatchConfig,
    runners: Sequence[Runner],
    count: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Probabilities of slices of one plane.

    Args:
        sampler: HU (R, A, S) at chosen indices along R, A, S.
        shape: voxels of the working grid.
        axis: normal of the plane: 0 sagittal, 1 coronal, 2 axial.
        windows: first voxels of the windows by slice.
        grid: windows of a slice.
        patch: patch extraction.
        runners: networks.
        count: called with the number of windows done.

    Yields:
        Slice and its probabilities on the two other axes, (1, *size) of fracture or (2, *size) with those of vertebra; 0 outside
        the windows.
    """
    slices = sorted(k for k, starts in windows.items() if starts)
    if not slices:
        return
    low, high = grid.part(itertools.chain.from_iterable(windows.values()))
    indices = [np.arange(a, b) for a, b in zip(np.insert(low, axis, 0), np.insert(high, axis, shape[axis]), strict=True)]
    slice_voxels = int(np.prod(high - low))
    # The slices of a chunk may be far apart, as in the coarse pass, and each has its own neighbours.
    chunk_size = max(SAMPLE_BYTES // (2 * patch.num_context_slices * slice_voxels), 1)
    context = np.array(slice_offsets(patch.neighbours, patch.neighbour_step))
    device = _device(runners)
    weights = patch.weights.to(device)
    crop = (slice(None), *_box(grid.before, grid.size))
    for first in range(0, len(slices), chunk_size):
        chunk = slices[first : first + chunk_size]
        sampled = np.unique(np.clip(np.add.outer(chunk, context), 0, shape[axis] - 1))
        indices[axis] = sampled
        hu = np.moveaxis(sampler(indices), axis, 0)
        jobs = [(k, start) for k in chunk for start in windows[k]]
        remaining = {k: len(windows[k]) for k in chunk}
        sums: dict[int, torch.Tensor] = {}
        inputs: dict[int, torch.Tensor] = {}
        for at in range(0, len(jobs), patch.sw_batch_size):
            part = jobs[at : at + patch.sw_batch_size]
            for k in {k for k, _ in part} - set(inputs):
                channels = k + context
                rows = np.searchsorted(sampled, np.clip(channels, 0, shape[axis] - 1))
                scaled = patch.scale_intensity(torch.from_numpy(np.ascontiguousarray(hu[rows])).to(device, non_blocking=True))
                outside = np.flatnonzero((channels < 0) | (channels >= shape[axis])).tolist()
                if outside:  # seldom; on a GPU every indexing waits
                    scaled[outside] = patch.outside
                inputs[k] = _pad(scaled, grid, patch.outside)
            batch = torch.stack([inputs[k][(slice(None), *_box(s - low, patch.size))] for k, s in part])
            for (k, start), logits in zip(part, predict_batch(runners, batch, patch), strict=True):
                if k not in sums:
                    sums[k] = torch.zeros(len(logits) + 1, *grid.padded, device=device)
                box = (slice(None), *_box(start, patch.size))
                sums[k][:-1][box] += logits * weights
                sums[k][-1:][box] += weights
                remaining[k] -= 1
            if count is not None:
                count(len(part))
            for k in [k for k in sums if remaining[k] == 0]:
                del inputs[k]
                yield k, _probabilities(sums.pop(k))[crop].cpu().numpy()


def predict_volume(
    sampler: Sampler,
    shape: Sequence[int],
    windows: Windows,
    grid: WindowGrid,
    patch: PatchConfig,
    runners: Sequence[Runner],
    count: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Probabilities of 3D windows, sagittal slice by sagittal slice as soon as no later window covers it.

    Args and result as of ``predict_slices``; ``windows`` are the first voxels of the windows.
    """
    by_row: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for start in windows:
        by_row[start[0]].append(tuple(start))
    depth, size = patch.size[0], grid.padded[1:]
    crop = _box(grid.before[1:], grid.size[1:])
    rows = sorted(by_row)
    device = _device(runners)
    weights = patch.weights.to(device)
    sums, num_outputs, base = torch.zeros(0, device=device), 0, rows[0] if rows else 0
    for number, first in enumerate(rows):
        inside = np.clip(np.arange(first, first + depth) - grid.before[0], -1, shape[0])
        sampled = np.unique(inside[(inside >= 0) & (inside < shape[0])])
        hu = torch.from_numpy(sampler([sampled, np.arange(shape[1]), np.arange(shape[2])])).to(device)
        image = torch.full((depth, *size), patch.outside, device=device)
        offset = int(np.argmax(inside >= 0))
        image[(slice(offset, offset + len(sampled)), *crop)] = patch.scale_intensity(hu)
        starts = by_row[first]
        for at in range(0, len(starts), patch.sw_batch_size):
            part = starts[at : at + patch.sw_batch_size]
            batch = torch.stack([image[(slice(None), *_box(s[1:], patch.size[1:]))][None] for s in part])
            outputs = predict_batch(runners, batch, patch)
            if not num_outputs:
                num_outputs = outputs.shape[1]
                sums = torch.zeros(num_outputs + 1, 0, *size, device=device)
            missing = first + depth - (base + sums.shape[1])
            sums = torch.cat([sums, torch.zeros(num_outputs + 1, missing, *size, device=device)], dim=1)
            for start, logits in zip(part, outputs, strict=True):
                box = (slice(None), slice(first - base, first - base + depth), *_box(start[1:], patch.size[1:]))
                sums[:-1][box] += logits * weights
                sums[-1:][box] += weights
            if count is not None:
                count(len(part))
        until = rows[number + 1] if number + 1 < len(rows) else first + depth
        done = min(until, first + depth) - base
        for n in range(done):
            index = base + n - grid.before[0]
            if 0 <= index < shape[0]:
                yield index, _probabilities(sums[:, n])[(slice(None), *crop)].cpu().numpy()
        complete = until >= first + depth
        sums, base = (sums[:, :0], until) if complete else (sums[:, done:].clone(), base + done)
