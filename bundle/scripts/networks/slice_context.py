# SPDX-License-Identifier: Apache-2.0
"""2.5D: neighbouring slices on both sides of a slice as further channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SliceInferer

from ..core.errors import InputError


def slice_offsets(neighbours: int, step: int) -> list[int]:
    """Positions of the channels relative to the centre slice, in slices, lowest first.

    Args:
        neighbours: slices on each side; 0: the centre slice alone.
        step: slices from one channel to the next.

    Returns:
        2 * neighbours + 1 numbers.

    Raises:
        ValueError: when ``neighbours`` is negative or ``step`` below 1.
    """
    if neighbours < 0:
        raise ValueError(f"neighbours={neighbours}: must be 0 or more, slices on each side")
    if step < 1:
        raise ValueError(f"neighbour_step={step}: must be 1 or more, slices from one channel to the next")
    return [n * step for n in range(-neighbours, neighbours + 1)]


def context_step(
    neighbours: int, neighbour_mm: float, spacing: Sequence[float], spatial_dims: int = 2, planes: Sequence[str] = ("sagittal",)
) -> int:
    """Slices from one channel to the next, at least 1.

    Args:
        neighbours: slices on each side that are channels; 0: the other arguments are not checked.
        neighbour_mm: distance (mm) from one channel to the next.
        spacing: voxel size (mm) of the working grid; -1 (the spacing of the scan): the step is 1.
        spatial_dims: 2 or 3, of the network's patches.
        planes: planes of the slices, the first of which counts; of another name, which is refused elsewhere, it is sagittal.

    Raises:
        InputError: when the distance is not above 0 mm, or for neighbours of 3D patches.
    """
    if neighbours and neighbour_mm <= 0:
        raise InputError(f"neighbour_mm={neighbour_mm}: must be above 0 mm, from one channel to the next")
    if neighbours and spatial_dims != 2:
        raise InputError(
            f"neighbours={neighbours}: must be 0 for 3D patches, which contain their neighbouring slices; "
            "omit spatial_25d.yaml or spatial_3d/*.yaml"
        )
    axis = {"coronal": 1, "axial": 2}.get(str(planes[0]) if planes else "", 0)
    return max(round(neighbour_mm / spacing[axis]), 1) if spacing[axis] > 0 else 1


def stack_slice_context(volume: torch.Tensor, neighbours: int, step: int = 1, dim: int = 0, value: float = 0.0) -> torch.Tensor:
    """Stack the neighbours of every slice as channels.

    Args:
        volume: (B, C, X, Y, Z).
        neighbours: slices on each side.
        step: slices from one channel to the next.
        dim: spatial axis of the slices.
        value: of slices outside the volume.

    Returns:
        (B, (2 * neighbours + 1) * C, X, Y, Z).

    Raises:
        ValueError: when ``neighbours`` is negative or ``step`` below 1.
    """
    offsets, axis, num_slices = slice_offsets(neighbours, step), dim + 2, volume.shape[dim + 2]
    if not neighbours:
        return volume
    stack = volume.new_full((len(offsets), *volume.shape), value)
    for channel, offset in zip(stack, offsets, strict=True):
        length = num_slices - abs(offset)
        if length > 0:
            channel.narrow(axis, max(-offset, 0), length).copy_(volume.narrow(axis, max(offset, 0), length))
    return stack.movedim(0, 1).flatten(1, 2)


class SliceContextInferer(SliceInferer):
    """``SliceInferer`` for a 2.5D network: each slice has its neighbours as channels, stacked for one volume at a time.

    Args:
        args: positional arguments of ``SliceInferer``.
        neighbours: slices on each side; 0: as ``SliceInferer``.
        step: slices from one channel to the next.
        kwargs: keyword arguments of ``SliceInferer``; ``cval`` is the value of slices outside the volume as well.

    Raises:
        ValueError: when ``neighbours`` is negative or ``step`` below 1.
    """

    def __init__(self, *args: Any, neighbours: int = 0, step: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slice_offsets(neighbours, step)
        self.neighbours, self.step = neighbours, step

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]:
        """Run the network slice by slice on volumes (B, C, X, Y, Z)."""
        stacked = stack_slice_context(inputs, self.neighbours, self.step, dim=self.spatial_dim, value=self.cval)
        return super().__call__(stacked, network, *args, **kwargs)
