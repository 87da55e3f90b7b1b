# SPDX-License-Identifier: Apache-2.0
"""Simulated fractures at random vertebrae of a scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...core.genant import SHAPES
from ...core.vertebrae import spine_order
from ...postprocessing.vertebra_frame import FrameError
from ..spine_scan import SpineScan
from .deformation import FracturePlan, simulate_fracture

MAX_BORDER_FRACTION = 0.15  # of the largest axial section; a larger section in the border slice is a body that is cut
WITHOUT_BODY = (1, 2, 26)  # C1, C2 and sacrum have no body between two discs


def whole_vertebrae(labels: NDArray, affine: NDArray | None = None) -> list[int]:
    """Vertebrae whose body is not cut by the upper or lower border of the volume, from head to feet.

    Processes may touch these borders, as in scans cropped to the spine, and may be cut by the lateral ones.

    Args:
        labels: (X, Y, Z) VerSe labels.
        affine: (4, 4) voxel to world (R, A, S); None for a last axis from feet to head.
    """
    axis = 2 if affine is None else int(np.argmax(np.abs(affine[2, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
    slices = np.moveaxis(labels, axis, 0)
    whole = []
    for vertebra in spine_order(labels):
        # The largest section of a vertebra is one through its body.
        sections = np.count_nonzero(slices == vertebra, axis=(1, 2))
        if max(sections[0], sections[-1]) < MAX_BORDER_FRACTION * sections.max():
            whole.append(vertebra)
    return whole


def add_fractures(
    scan: SpineScan,
    rng: np.random.Generator,
    fractures: int,
    shapes: Sequence[str] = tuple(SHAPES),
    grades: Sequence[int] = (1, 2, 3),
    exclude: Sequence[int] = (),
    visible_discs: bool = False,
) -> SpineScan:
    """Scan with up to ``fractures`` simulated fractures, those that it has already included.

    Args:
        scan: scan with vertebra instances; it is not changed.
        rng: random number generator.
        fractures: maximum number of fractures; vertebrae that are too coarse to be measured are skipped.
        shapes: shapes to sample from.
        grades: Genant grades to sample from.
        exclude: labels of vertebrae that are not to be fractured.
        visible_discs: skip vertebrae between discs with the HU of bone, as in thick slices of real CT.
    """
    candidates = [v for v in whole_vertebrae(scan.labels, scan.affine) if v not in exclude and v not in WITHOUT_BODY]
    for label in rng.permutation(candidates).tolist():
        if len(scan.fractures) >= fractures:
            break
        plan = FracturePlan(int(label), str(rng.choice(list(shapes))), int(rng.choice(list(grades))))
        try:
            scan = simulate_fracture(scan, plan, rng, visible_discs=visible_discs)
        except FrameError:
            continue
    return scan
