# SPDX-License-Identifier: Apache-2.0
"""Measurements of every finding, summed on the scan's own grid while its mask is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.vertebrae import LABELS, LEVELS
from ..io.scan_header import ScanHeader

FINDING_COLUMNS = (
    "case", "finding", "level", "level_share", "levels", "volume_ml", "mean_probability", "max_probability", "uncertainty",
    "mean_hu", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm",
    "min_r_mm", "min_a_mm", "min_s_mm", "max_r_mm", "max_a_mm", "max_s_mm",
    "slice_first", "slice_last",
)  # fmt: skip
MIN_SHARE = 0.1  # of a finding that lies in a vertebra, from which the vertebra is listed
OUTSIDE = "outside"
DEFINITIONS = {
    "finding": "connected component of the mask, numbered by size on the working grid",
    "level": "vertebra that contains most of the finding; empty without a mask of vertebrae",
    "level_share": "fraction of the finding in that vertebra",
    "levels": f"vertebrae that hold at least {MIN_SHARE:.0%} of the finding, from head to feet; {OUTSIDE}: no given one does",
    "mean_probability": "mean of the network's output over the finding; not calibrated",
    "uncertainty": "mean binary entropy of that output in bit: 0 for probabilities of 0 or 1, 1 for 0.5",
    "mean_hu": "mean HU of the scan in the finding",
    "centroid, min, max": "mm in patient coordinates, R right, A anterior, S superior (as in NIfTI); box of voxel centres",
    "slice_first, slice_last": "slices along the third axis of the stored scan, from 0; of a DICOM series in order of position",
}

FRACTURED_VERTEBRA = {  # where one decision is made per vertebra
    "finding": "fractured vertebra, by its number from the head",
    "level": "level of that vertebra; empty where it is unknown",
    "mean_probability": "probability of fracture of the vertebra, as in vertebrae.csv; max_probability is the same",
    "uncertainty": "binary entropy of that probability in bit: 0 for 0 or 1, 1 for 0.5",
}


def _entropy(p: NDArray[np.float32]) -> NDArray[np.float64]:
    clipped = np.clip(p.astype(np.float64), 1e-6, 1 - 1e-6)
    return -(clipped * np.log2(clipped) + (1 - clipped) * np.log2(1 - clipped))


@dataclass
class _Sums:
    voxels: int = 0
    probability: float = 0.0
    max_probability: float = 0.0
    entropy: float = 0.0
    hu: float = 0.0
    position: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    low: NDArray[np.float64] = field(default_factory=lambda: np.full(3, np.inf))
    high: NDArray[np.float64] = field(default_factory=lambda: np.full(3, -np.inf))
    slices: list[int] = field(default_factory=list)
    levels: dict[int, int] = field(default_factory=dict)


class FindingMeasurements:
    """Sums over findings, slice by slice.

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
        probability: NDArray[np.float32],
        numbers: NDArray,
        hu: NDArray[np.int16],
        vertebrae: NDArray | None = None,
    ) -> None:
        """Add a part (J, I) of slice ``k``.

        Args:
            k: slice.
            box: position of the part in the slice (rows J, columns I).
            mask: voxels of findings.
            probability: probabilities.
            numbers: number of the finding at every voxel.
            hu: HU.
            vertebrae: labels of vertebrae.
        """
        rows, columns = np.nonzero(mask)
        finding = numbers[rows, columns]
        index = np.stack([columns + box[1].start, rows + box[0].start, np.full(len(rows), k)]).astype(np.float64)
        world = self._header.affine[:3, :3] @ index + self._header.affine[:3, 3:]
        p, h = probability[rows, columns], hu[rows, columns]
        for number in np.unique(finding).tolist():
            inside = finding == number
            sums = self._sums.setdefault(int(number), _Sums())
            sums.voxels += int(inside.sum())
            sums.probability += float(p[inside].sum(dtype=np.float64))
            sums.max_probability = max(sums.max_probability, float(p[inside].max()))
            sums.entropy += float(_entropy(p[inside]).sum())
            sums.hu += float(h[inside].sum(dtype=np.float64))
            sums.position += world[:, inside].sum(axis=1)
            sums.low = np.minimum(sums.low, world[:, inside].min(axis=1))
            sums.high = np.maximum(sums.high, world[:, inside].max(axis=1))
            sums.slices.append(k)
            if vertebrae is not None:
                values, counts = np.unique(vertebrae[rows[inside], columns[inside]], return_counts=True)
                for value, count in zip(values, counts, strict=True):
                    sums.levels[int(value)] = sums.levels.get(int(value), 0) + int(count)

    @staticmethod
    def _levels(sums: _Sums, names: Mapping[int, str]) -> tuple[str, float | str, str]:
        """Cells ``level``, ``level_share`` and ``levels`` of a finding; all empty where no vertebrae were given."""
        shares = {v: n / sums.voxels for v, n in sums.levels.items() if v > 0}
        listed = sorted((v for v, share in shares.items() if share >= MIN_SHARE), key=lambda v: 19.5 if v == LABELS["T13"] else v)
        if not listed:
            return "", "", OUTSIDE if sums.levels else ""
        best = max(listed, key=lambda v: shares[v])
        return names.get(best, str(best)), round(shares[best], 3), ", ".join(names.get(v, str(v)) for v in listed)

    def rows(self, case: str, names: Mapping[int, str] = LEVELS) -> list[dict]:
        """One row of ``FINDING_COLUMNS`` per finding."""
        voxel_ml = abs(float(np.linalg.det(self._header.affine[:3, :3]))) / 1000
        rows = []
        for number, s in sorted(self._sums.items()):
            level, share, levels = self._levels(s, names)
            points = {"centroid": s.position / s.voxels, "min": s.low, "max": s.high}
            rows.append(
                {
                    "case": case,
                    "finding": number,
                    "level": level,
                    "level_share": share,
                    "levels": levels,
                    "volume_ml": round(s.voxels * voxel_ml, 3),
                    "mean_probability": round(s.probability / s.voxels, 4),
                    "max_probability": round(s.max_probability, 4),
                    "uncertainty": round(s.entropy / s.voxels, 4),
                    "mean_hu": round(s.hu / s.voxels, 1),
                    **{
                        f"{name}_{axis}_mm": round(float(v), 2)
                        for name, point in points.items()
                        for axis, v in zip("ras", point, strict=True)
                    },
                    "slice_first": min(s.slices),
                    "slice_last": max(s.slices),
                }
            )
        return rows
