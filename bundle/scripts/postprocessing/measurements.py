# SPDX-License-Identifier: Apache-2.0
"""What is written of every finding, counted on the scan's own grid while its mask is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.vertebrae import LEVELS
from ..io.scan_header import ScanHeader

COLUMNS = (
    "case", "finding", "level", "level_share", "volume_ml", "mean_probability", "max_probability", "uncertainty", "mean_hu",
    "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "min_r_mm", "min_a_mm", "min_s_mm", "max_r_mm", "max_a_mm", "max_s_mm",
    "slice_first", "slice_last",
)  # fmt: skip
DEFINITIONS = {
    "finding": "connected voxels that are marked, numbered by size on the working grid",
    "level": "vertebra that most of the finding lies in; empty unless a mask of vertebrae was given",
    "level_share": "share of the finding that lies in that vertebra",
    "mean_probability": "mean of the network's output over the finding; not calibrated",
    "uncertainty": "mean entropy of that output in bit: 0 where the network is sure, 1 where it is torn",
    "mean_hu": "mean HU of the scan inside the finding",
    "centroid, min, max": "mm in the patient's coordinates, R to the right, A to the front, S up (as NIfTI); box of voxel centres",
    "slice_first, slice_last": "slices along the third axis of the stored scan, from 0; of a DICOM series in order of position",
}


def _entropy(p: NDArray[np.float32]) -> NDArray[np.float64]:
    clipped = np.clip(p.astype(np.float64), 1e-6, 1 - 1e-6)
    return -(clipped * np.log2(clipped) + (1 - clipped) * np.log2(1 - clipped))


@dataclass
class _Sums:
    voxels: int = 0
    probability: float = 0.0
    top: float = 0.0
    entropy: float = 0.0
    hu: float = 0.0
    place: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    low: NDArray[np.float64] = field(default_factory=lambda: np.full(3, np.inf))
    high: NDArray[np.float64] = field(default_factory=lambda: np.full(3, -np.inf))
    slices: list[int] = field(default_factory=list)
    levels: dict[int, int] = field(default_factory=dict)


class Measure:
    """Adds up findings slice by slice.

    Args:
        header: scan.
    """

    def __init__(self, header: ScanHeader) -> None:
        self._header = header
        self._sums: dict[int, _Sums] = {}

    def add(
        self,
        k: int,
        box: tuple[slice, slice],
        mask: NDArray[np.bool_],
        chance: NDArray[np.float32],
        numbers: NDArray,
        hu: NDArray[np.int16],
        vertebrae: NDArray | None = None,
    ) -> None:
        """Add a part of slice ``k``.

        Args:
            k: slice.
            box: where in the slice the part lies (rows J, columns I).
            mask: marked voxels of the part.
            chance: probabilities.
            numbers: number of the finding at every voxel.
            hu: HU.
            vertebrae: labels of vertebrae.
        """
        rows, columns = np.nonzero(mask)
        at = numbers[rows, columns]
        index = np.stack([columns + box[1].start, rows + box[0].start, np.full(len(rows), k)]).astype(np.float64)
        world = self._header.affine[:3, :3] @ index + self._header.affine[:3, 3:]
        p, h = chance[rows, columns], hu[rows, columns]
        for number in np.unique(at).tolist():
            mine = at == number
            sums = self._sums.setdefault(int(number), _Sums())
            sums.voxels += int(mine.sum())
            sums.probability += float(p[mine].sum(dtype=np.float64))
            sums.top = max(sums.top, float(p[mine].max()))
            sums.entropy += float(_entropy(p[mine]).sum())
            sums.hu += float(h[mine].sum(dtype=np.float64))
            sums.place += world[:, mine].sum(axis=1)
            sums.low = np.minimum(sums.low, world[:, mine].min(axis=1))
            sums.high = np.maximum(sums.high, world[:, mine].max(axis=1))
            sums.slices.append(k)
            if vertebrae is not None:
                for value, count in zip(
                    *np.unique(vertebrae[rows[mine], columns[mine]], return_counts=True), strict=True
                ):
                    sums.levels[int(value)] = sums.levels.get(int(value), 0) + int(count)

    def rows(self, case: str, names: Mapping[int, str] = LEVELS) -> list[dict]:
        """One row of ``COLUMNS`` per finding."""
        voxel_ml = abs(float(np.linalg.det(self._header.affine[:3, :3]))) / 1000
        found = []
        for number, s in sorted(self._sums.items()):
            levels = {v: n for v, n in s.levels.items() if v > 0}
            best = max(levels, key=lambda v: levels[v]) if levels else None
            centre = s.place / s.voxels
            places: Sequence[tuple[str, NDArray]] = (("centroid", centre), ("min", s.low), ("max", s.high))
            found.append(
                {
                    "case": case,
                    "finding": number,
                    "level": "" if best is None else names.get(best, str(best)),
                    "level_share": "" if best is None else round(levels[best] / s.voxels, 3),
                    "volume_ml": round(s.voxels * voxel_ml, 3),
                    "mean_probability": round(s.probability / s.voxels, 4),
                    "max_probability": round(s.top, 4),
                    "uncertainty": round(s.entropy / s.voxels, 4),
                    "mean_hu": round(s.hu / s.voxels, 1),
                    **{
                        f"{name}_{axis}_mm": round(float(v), 2)
                        for name, values in places
                        for axis, v in zip("ras", values, strict=True)
                    },
                    "slice_first": min(s.slices),
                    "slice_last": max(s.slices),
                }
            )
        return found
