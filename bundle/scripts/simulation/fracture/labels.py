# SPDX-License-Identifier: Apache-2.0
"""Training labels of scans with simulated fractures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...core.vertebrae import voxels_per_label
from ...data.datalist import IGNORE_INDEX
from ..spine_scan import SpineScan

MIN_LABELLED_FRACTION = 0.5  # of a vertebra, for the vertebra to have a label
MIN_MARKED_FRACTION = 0.05  # of a vertebra that is marked in part: unknown; less is the rim of a neighbour's label


def labelled_vertebrae(vertebrae: NDArray, label: NDArray | None) -> tuple[list[int], list[int]]:
    """Vertebrae that a training label marks.

    Args:
        vertebrae: (X, Y, Z) VerSe labels.
        label: (X, Y, Z) training label, or None.

    Returns:
        Fractured vertebrae, and vertebrae with the ignore index, among them those of which a part is marked.
    """
    if label is None:
        return [], []
    counts = voxels_per_label(vertebrae)
    marked = [np.bincount(vertebrae[label == value].ravel(), minlength=256) for value in (1, IGNORE_INDEX)]
    fractured, ignored = ([v for v, n in counts.items() if m[v] > MIN_LABELLED_FRACTION * n] for m in marked)
    any_mark = marked[0] + marked[1]
    partly = (v for v, n in counts.items() if MIN_MARKED_FRACTION * n < any_mark[v] and v not in {*fractured, *ignored})
    return fractured, [*ignored, *partly]


def training_label(
    scan: SpineScan, fractured: Sequence[int] = (), ignored: Sequence[int] = (), source: NDArray | None = None
) -> NDArray[np.uint8]:
    """Training label of a scan, (X, Y, Z): 1 for fractured vertebrae, 255 for the ignore index, 0 elsewhere.

    Args:
        scan: scan with simulated fractures.
        fractured: vertebrae with a real fracture.
        ignored: vertebrae with the ignore index, which takes precedence.
        source: (X, Y, Z) label of the scan before the simulation, which is kept outside the vertebrae: fractures that have no
            instance, and the ignore index.
    """
    label = np.zeros(scan.labels.shape, np.uint8)
    if source is not None:
        for value in (1, IGNORE_INDEX):
            label[(source == value) & (scan.labels == 0)] = value
    label[np.isin(scan.labels, [*fractured, *(f["label"] for f in scan.fractures)])] = 1
    label[np.isin(scan.labels, list(ignored))] = IGNORE_INDEX
    return label
