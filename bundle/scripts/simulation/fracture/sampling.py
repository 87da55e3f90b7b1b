# SPDX-License-Identifier: Apache-2.0
"""Which vertebrae of a scan are fractured at random, and what is written of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.genant import SHAPES
from ...core.vertebrae import spine_order
from ...data.vertebra_table import vertebra_rows
from ...postprocessing.vertebra_frame import FrameError
from ..spine_scan import SpineScan
from .deformation import FracturePlan, simulate_fracture

CUT_SHARE = 0.15  # of the largest section, in the border: more means that the border cuts the body
NO_BODY = (1, 2, 26)  # atlas, axis and sacrum have no body between two discs


def whole_vertebrae(labels: np.ndarray, affine: np.ndarray | None = None) -> list[int]:
    """Vertebrae whose body neither the upper nor the lower border of a volume cuts, from head to feet.

    A scan cropped to its vertebrae touches the tips of processes; a body that is cut fills much of the border. A narrow sagittal
    field of view may cut transverse processes; the body, which fractures, is whole all the same.

    Args:
        labels: VerSe labels.
        affine: tells which axis runs from feet to head; None means the last one.
    """
    axis = 2 if affine is None else int(np.argmax(np.abs(affine[2, :3])))
    slices = np.moveaxis(labels, axis, 0)
    kept = []
    for vertebra in spine_order(labels):
        # Bodies are large against their processes, so the largest section goes through a body, or through what is left of one.
        sections = np.count_nonzero(slices == vertebra, axis=(1, 2))
        if max(sections[0], sections[-1]) < CUT_SHARE * sections.max():
            kept.append(vertebra)
    return kept


def add_fractures(
    scan: SpineScan,
    rng: np.random.Generator,
    fractures: int,
    shapes: Sequence[str] = tuple(SHAPES),
    grades: Sequence[int] = (1, 2, 3),
    exclude: Sequence[int] = (),
) -> SpineScan:
    """Fracture up to ``fractures`` whole vertebrae; those that cannot be measured at the scan's resolution are passed over."""
    candidates = [v for v in whole_vertebrae(scan.labels, scan.affine) if v not in exclude and v not in NO_BODY]
    for label in rng.permutation(candidates).tolist():
        if len(scan.fractures) >= fractures:
            break
        plan = FracturePlan(int(label), str(rng.choice(list(shapes))), int(rng.choice(list(grades))))
        try:
            scan = simulate_fracture(scan, plan, rng)
        except FrameError:
            continue
    return scan


def scan_rows(
    case: str, scan: SpineScan, fractured: Sequence[int] = (), unknown: Sequence[int] = ()
) -> list[dict[str, object]]:
    """Rows of the table of vertebrae (``data.vertebra_table``) for a scan with simulated fractures.

    Args:
        case: name of the case.
        scan: scan; its other vertebrae have grade 0.
        fractured: vertebrae that the source marks as fractured; their grade is blank.
        unknown: vertebrae that the source marks as unknown; fracture and grade are blank.
    """
    attributes: dict[int, dict] = {v: {"fractured": 0, "grade": 0} for v in spine_order(scan.labels)}
    attributes |= {f["label"]: {"fractured": 1} | f for f in scan.fractures}
    attributes |= {v: {"fractured": 1} for v in fractured} | {v: {} for v in unknown}
    return vertebra_rows(case, scan.labels, scan.affine, attributes)
