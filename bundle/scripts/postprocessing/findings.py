# SPDX-License-Identifier: Apache-2.0
"""From probabilities to findings: threshold, connected components, size and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, find_objects

from ..core.components import label_components
from ..core.config_values import require_values
from ..core.deprecations import migrate_arguments
from .vertebra_consistency import check_consistency
from .vertebra_decision import check_calibration

DECISIONS = ("vertebra", "voxel")
Spacing = Sequence[float] | NDArray[np.float64]  # mm along three axes


def longest_run(mask: NDArray[np.bool_], axis: int = 0) -> int:
    """Greatest number of True in a row along an axis."""
    layers = np.moveaxis(mask, axis, 0)
    run, longest = np.zeros(layers.shape[1:], np.int32), 0
    for layer in layers:
        run = np.where(layer, run + 1, 0)
        longest = max(longest, int(run.max(initial=0)))
    return longest


class Sized(Protocol):
    """Component with its number of voxels and its width (mm)."""

    @property
    def voxels(self) -> int:
        """Number of voxels."""

    @property
    def width_mm(self) -> float:
        """Longest run from left to right."""


S = TypeVar("S", bound=Sized)


@dataclass
class Component:
    """Connected component of a mask.

    Attributes:
        box: its bounding box in the mask.
        mask: its voxels in that box, filled cavities included.
        spacing: mm along the axes of the mask.
        lateral_axis: axis from left to right.
        filled: voxels of ``mask`` that were cavities.
    """

    box: tuple[slice, ...]
    mask: NDArray[np.bool_]
    spacing: Spacing
    lateral_axis: int = 0
    filled: NDArray[np.bool_] | None = None

    @property
    def cavities(self) -> NDArray[np.bool_]:
        """Voxels that were cavities; none without ``fill_holes``."""
        return np.zeros_like(self.mask) if self.filled is None else self.filled

    @cached_property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def width_mm(self) -> float:
        """Longest run of voxels from left to right."""
        return float(longest_run(self.mask, self.lateral_axis) * self.spacing[self.lateral_axis])


def connected_components(
    mask: NDArray[np.bool_], spacing: Spacing, fill_holes: bool = False, lateral_axis: int = 0
) -> list[Component]:
    """Components of a mask whose voxels share a face, the largest first.

    Args:
        mask: three axes.
        spacing: mm along these axes.
        fill_holes: include the cavities of a component.
        lateral_axis: axis from left to right.
    """
    if mask.size == 0:
        return []
    numbered, _ = label_components(mask)
    components = []
    for number, box in enumerate(find_objects(numbered), 1):
        inside = numbered[box] == number
        solid = binary_fill_holes(inside) if fill_holes else inside
        components.append(Component(box, solid, spacing, lateral_axis, solid & ~inside if fill_holes else None))
    if fill_holes:  # what lies in a cavity is part of the component around it
        covered = np.zeros(mask.shape, bool)
        for component in components:
            covered[component.box] |= component.cavities
        components = [c for c in components if not (covered[c.box] & c.mask & ~c.cavities).any()]
    return sorted(components, key=lambda c: -c.voxels)


@dataclass(frozen=True)
class PostProcessing:
    """Settings of the post-processing, the same in validation, evaluation, inference, tuning and MONAI Label.

    Args:
        threshold: probability above which a voxel is labelled as fracture.
        min_volume_ml: smaller findings are removed; the smallest whole vertebra (a C4) in seven masks of VerSe has 13 ml.
        min_width_mm: findings whose longest run from left to right is shorter are removed: joints and processes. The narrowest
            thoracic body in seven masks of VerSe has 26 mm.
        fill_holes: include cavities in a finding.
        largest: number of findings that are kept, the largest first; None keeps all.
        consistency_mm: standard deviations of the average over a vertebra along R, A, S (mm); None switches it off. See
            ``vertebra_consistency``.
        consistency_fraction: fractured fraction of a vertebra above which the whole vertebra counts as fractured.
        decision: "vertebra": one decision for every vertebra, by the mean probability in its body, where the network has an output
            of body; sizes, widths and consistency then play no part. "voxel": the threshold of every voxel, as in the paper, with
            consistency, sizes and widths as given.
        calibration: slope and intercept of the logit of a vertebra's probability, see ``vertebra_decision.calibrate``.

    Raises:
        ValueError: for a value out of range.
    """

    threshold: float = 0.5
    min_volume_ml: float = 2.0
    min_width_mm: float = 12.0
    fill_holes: bool = False
    largest: int | None = None
    consistency_mm: Sequence[float] | None = (18.0, 12.0, 3.0)
    consistency_fraction: float = 0.4
    decision: str = "vertebra"
    calibration: Sequence[float] = (1.0, 0.0)

    def __post_init__(self) -> None:
        names = ("threshold", "min_volume_ml", "min_width_mm", "fill_holes", "largest", "consistency_mm", "consistency_fraction")
        require_values({name: getattr(self, name) for name in names})
        if self.largest is not None:
            object.__setattr__(self, "largest", int(self.largest))
        check_consistency(self.consistency_mm, self.consistency_fraction)
        if self.decision not in DECISIONS:
            raise ValueError(f"decision={self.decision!r}: must be one of {', '.join(DECISIONS)}")
        check_calibration(self.calibration)

    @classmethod
    def from_config(cls, arguments: Mapping[str, Any]) -> PostProcessing:
        """Settings of a config; MONAI Label sends numbers as text.

        Raises:
            ValueError: for text that is not a number, or a value out of range.
        """
        values = migrate_arguments("scripts.postprocessing.findings.PostProcessing", arguments)
        for name, value in values.items():
            if isinstance(value, str) and name != "decision":
                try:
                    values[name] = float(value)
                except ValueError:
                    raise ValueError(f"{name}={value!r}: must be a number") from None
            elif isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)

    def select(self, components: Sequence[S], spacing: Spacing) -> list[S]:
        """Components that are large and wide enough, at most ``largest``, in their order."""
        min_voxels = 1000 * self.min_volume_ml / float(np.prod(spacing))
        large = (c for c in components if c.voxels >= min_voxels)
        return [c for c in large if self.min_width_mm <= 0 or c.width_mm >= self.min_width_mm][: self.largest]

    def filter_mask(self, mask: NDArray[np.bool_], spacing: Spacing, lateral_axis: int = 0) -> NDArray[np.bool_]:
        """Mask of the findings that remain of a mask.

        Args:
            mask: three axes, any orientation.
            spacing: mm along these axes.
            lateral_axis: axis from left to right.
        """
        result = np.zeros(mask.shape, bool)
        for component in self.select(connected_components(mask, spacing, self.fill_holes, lateral_axis), spacing):
            result[component.box] |= component.mask
        return result

    def __call__(self, volume: NDArray[np.float16], spacing: Spacing) -> NDArray[np.int32]:
        """Number the findings by size, the largest first.

        Args:
            volume: probabilities (R, A, S); dropped findings are set to 0 in it, filled cavities to 1.
            spacing: mm.

        Returns:
            Number of the finding at every voxel, 0 elsewhere. Numbers extend one voxel beyond their finding, for nearest-neighbour
            lookup from a finer grid.
        """
        if volume.size == 0:
            return np.zeros(volume.shape, np.int32)
        components = connected_components(volume > self.threshold, spacing, self.fill_holes)
        selected = self.select(components, spacing)
        remaining = {id(c) for c in selected}
        for component in components:
            view = volume[component.box]
            if id(component) not in remaining:
                view[component.mask] = 0
            elif component.filled is not None:
                view[component.filled] = 1
        numbers = np.zeros(volume.shape, np.int32)
        for number, component in enumerate(selected, 1):
            wide = tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(component.box, volume.shape, strict=True))
            core = np.zeros([s.stop - s.start for s in wide], bool)
            core[tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(component.box, wide, strict=True))] = (
                component.mask
            )
            dilated = binary_dilation(core, np.ones((3, 3, 3), bool))
            part = numbers[wide]
            part[core | (dilated & (part == 0))] = number
        return numbers
