# SPDX-License-Identifier: Apache-2.0
"""2.5D: slices at both sides of a slice are channels beside it, so that a network sees which body a pedicle belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SliceInferer

from ..core.errors import InputError


def slice_offsets(neighbours: int, step: int) -> list[int]:
    """Places of the channels relative to the slice, in slices, lowest first: 2 n + 1 numbers.

    Args:
        neighbours: n, slices on each side; 0 leaves the slice alone.
        step: slices from one channel to the next.

    Raises:
        ValueError: for a number out of range.
    """
    if neighbours < 0:
        raise ValueError(f"neighbours={neighbours}: give 0 or more slices on each side")
    if step < 1:
        raise ValueError(f"neighbour_step={step}: give 1 or more slices from one channel to the next")
    return [n * step for n in range(-neighbours, neighbours + 1)]


def context_step(neighbours: int, neighbour_mm: float, spacing: Sequence[float], spatial_dims: int = 2) -> int:
    """Slices from one channel to the next, at least 1.

    Args:
        neighbours: slices on each side that are channels; 0: nothing is checked.
        neighbour_mm: distance (mm) from one channel to the next.
        spacing: mm of the working grid, slices first; -1 (the scan's own) takes the slices next to each other.
        spatial_dims: of the network's windows.

    Raises:
        InputError: for a distance that is not above 0, or neighbours of 3D windows.
    """
    if neighbours and neighbour_mm <= 0:
        raise InputError(f"neighbour_mm={neighbour_mm}: give a distance above 0 mm from one channel to the next")
    if neighbours and spatial_dims != 2:
        raise InputError(
            f"neighbours={neighbours}: 3D windows have their neighbours in them; leave spatial_25d.yaml or spatial_3d/*.yaml out"
        )
    return max(round(neighbour_mm / spacing[0]), 1) if spacing[0] > 0 else 1


def stack_slice_context(volume: torch.Tensor, neighbours: int, step: int = 1, dim: int = 0) -> torch.Tensor:
    """Give every slice its neighbours as channels; those outside the scan are 0.

    Args:
        volume: (B, C, X, Y, Z); it becomes (B, (2 n + 1) C, X, Y, Z).
        neighbours: n, slices on each side.
        step: slices from one channel to the next.
        dim: spatial axis that the slices are counted along.

    Raises:
        ValueError: for a number out of range.
    """
    beside, axis, count = slice_offsets(neighbours, step), dim + 2, volume.shape[dim + 2]
    if not neighbours:
        return volume
    stack = volume.new_zeros((len(beside), *volume.shape))
    for channel, offset in zip(stack, beside, strict=True):
        if abs(offset) < count:
            length = count - abs(offset)
            channel.narrow(axis, max(-offset, 0), length).copy_(volume.narrow(axis, max(offset, 0), length))
    return stack.movedim(0, 1).flatten(1, 2)


class SliceContextInferer(SliceInferer):
    """``SliceInferer`` that gives the network each slice with its neighbours, stacked for one volume at a time.

    Args:
        neighbours: n, slices on each side; 0 is ``SliceInferer`` itself.
        step: slices from one channel to the next.
        kwargs: of ``SliceInferer``.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(self, *args: Any, neighbours: int = 0, step: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slice_offsets(neighbours, step)
        self.neighbours, self.step = neighbours, step

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]:
        """Run the network over (B, C, X, Y, Z), slice by slice."""
        return super().__call__(
            stack_slice_context(inputs, self.neighbours, self.step, self.spatial_dim), network, *args, **kwargs
        )
