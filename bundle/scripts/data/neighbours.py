# SPDX-License-Identifier: Apache-2.0
"""2.5D: slices at both sides of a slice are channels beside it, so that a network sees which body a pedicle belongs to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.inferers import SliceInferer
from monai.transforms import MapTransform, Randomizable


def offsets(neighbours: int, step: int) -> list[int]:
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


def stack_neighbours(volume: torch.Tensor, neighbours: int, step: int = 1, dim: int = 0) -> torch.Tensor:
    """Give every slice its neighbours as channels; those outside the scan are 0.

    Args:
        volume: (B, C, X, Y, Z); it becomes (B, (2 n + 1) C, X, Y, Z).
        neighbours: n, slices on each side.
        step: slices from one channel to the next.
        dim: spatial axis that the slices are counted along.

    Raises:
        ValueError: for a number out of range.
    """
    beside, axis, count = offsets(neighbours, step), dim + 2, volume.shape[dim + 2]
    if not neighbours:
        return volume
    stack = volume.new_zeros((len(beside), *volume.shape))
    for channel, offset in zip(stack, beside, strict=True):
        if abs(offset) < count:
            length = count - abs(offset)
            channel.narrow(axis, max(-offset, 0), length).copy_(volume.narrow(axis, max(offset, 0), length))
    return stack.movedim(0, 1).flatten(1, 2)


class TakeNeighboursd(MapTransform):
    """Turn slabs of slices into 2D samples: the middle slice and its neighbours become channels, of labels the middle alone.

    Args:
        keys: slabs (1, 2 n step + 1, Y, Z), images and labels.
        image_keys: those whose neighbours become channels: (2 n + 1, Y, Z). The others become (1, Y, Z).
        neighbours: n, slices on each side; 0 takes the only slice.
        step: slices from one channel to the next.

    Raises:
        ValueError: for a number out of range, or a slab of another thickness.
    """

    def __init__(self, keys: KeysCollection, image_keys: KeysCollection, neighbours: int = 0, step: int = 1) -> None:
        super().__init__(keys)
        self.image_keys = (image_keys,) if isinstance(image_keys, str) else tuple(image_keys)  # type: ignore[arg-type]
        self.offsets = offsets(neighbours, step)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items as 2D samples."""
        result = dict(data)
        thick = self.offsets[-1] - self.offsets[0] + 1
        for key in self.key_iterator(result):
            slab = result[key]
            if slab.shape[1] != thick:
                raise ValueError(
                    f"TakeNeighboursd: `{key}` has {slab.shape[1]} slices; neighbours and step want {thick}."
                )
            wanted = self.offsets if key in self.image_keys else [0]
            result[key] = torch.cat([slab[:, thick // 2 + o] for o in wanted], dim=0)
        return result


class RandSpoilSlicesd(Randomizable, MapTransform):
    """Spoil some channels of a 2.5D sample, the slice itself among them, so that a network learns to ask them all.

    A spoilt channel changes its contrast and gains noise, and a rectangle of it goes blank. Samples of one channel stay the same.

    Args:
        keys: samples (C, Y, Z), scaled to 0...1.
        prob: share of the samples that are spoilt.
        share: chance of each of their channels.
        noise: largest standard deviation of the noise.
        gamma: largest factor by which contrast bends, up or down.
        blank: longest side of the rectangle, as a share of the slice's.
        blind: share of all samples whose middle channel goes blank as a whole.

    Raises:
        ValueError: for a chance outside 0...1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        share: float = 0.4,
        noise: float = 0.15,
        gamma: float = 2.0,
        blank: float = 0.6,
        blind: float = 0.0,
    ) -> None:
        super().__init__(keys)
        for name, value in {"prob": prob, "share": share, "blank": blank, "blind": blind}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"RandSpoilSlicesd: {name}={value}; give a number from 0 to 1.")
        self.prob, self.share, self.noise, self.gamma = prob, share, noise, gamma
        self.blank, self.blind = blank, blind

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items, spoilt or not."""
        result = dict(data)
        for key in self.key_iterator(result):
            count = result[key].shape[0]
            spoil, blind = self.R.random(2) < (self.prob, self.blind)
            if count > 1 and (spoil or blind):
                result[key] = image = result[key].clone()
                for channel in image if spoil else ():
                    if self.R.random() < self.share:
                        self._spoil(channel)
                if blind:
                    image[count // 2] = 0
        return result

    def _spoil(self, channel: torch.Tensor) -> None:
        channel.clamp_(0, 1).pow_(float(self.gamma ** self.R.uniform(-1, 1)))
        noise = self.R.standard_normal(tuple(channel.shape)).astype(np.float32) * self.R.uniform(0, self.noise)
        channel += torch.from_numpy(np.asarray(noise, np.float32))
        sides = [int(n * self.R.uniform(0, self.blank)) for n in channel.shape]
        corner = [self.R.randint(0, n - side + 1) for n, side in zip(channel.shape, sides, strict=True)]
        channel[tuple(slice(c, c + side) for c, side in zip(corner, sides, strict=True))] = float(
            self.R.uniform(0, 0.4)
        )


class NeighbourInferer(SliceInferer):
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
        offsets(neighbours, step)
        self.neighbours, self.step = neighbours, step

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...] | dict[Any, torch.Tensor]:
        """Run the network over (B, C, X, Y, Z), slice by slice."""
        return super().__call__(
            stack_neighbours(inputs, self.neighbours, self.step, self.spatial_dim), network, *args, **kwargs
        )
