# SPDX-License-Identifier: Apache-2.0
"""Discs beside a vertebra in a CT: a simulated loss of height is seen only where they are soft tissue.

The space that a fracture opens is filled with the disc, stretched. In thick slices through thin discs, and where the masks of
neighbours touch, the disc has the HU of bone, and the fractured vertebra cannot be distinguished from an intact one.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ...core.vertebrae import spine_order
from ...postprocessing.vertebra_frame import HALF_EXTENT_MM, STEP_MM, FrameError, find_frame, frame_points
from ..spine_scan import SpineScan

MAX_DISC_HU = 150.0  # seen in sagittal pictures of four real CTs: discs of 51 to 144 HU; not seen: 156 to 378
EDGE_MM = 6.0  # from the side walls, where osteophytes and partial volume are, to the samples


def disc_hu(scan: SpineScan, label: int) -> list[float]:
    """Mean HU in the middle of the discs above and below a vertebra, of those whose other vertebra is in the mask.

    Args:
        scan: CT with vertebra instances, any orientation.
        label: value of the vertebra.

    Raises:
        FrameError: when the mask contains no whole body of the vertebra.
    """
    order = spine_order(scan.labels)
    k = order.index(label)
    above, below = (order[k - 1] if k > 0 else None), (order[k + 1] if k + 1 < len(order) else None)
    frame = find_frame(scan.labels, scan.affine, label, above, below)
    core = ndimage.distance_transform_edt(frame.footprint) * STEP_MM > EDGE_MM
    if not core.any():
        core = frame.footprint
    points = frame_points(frame.centre, frame.axes, scan.affine)
    columns = np.nonzero(core)
    found = []
    for neighbour, near, far in ((above, frame.top, frame.ceiling), (below, frame.bottom, frame.floor)):
        if neighbour is None:
            continue
        middle = np.round(((near + far) / 2 + HALF_EXTENT_MM[2]) / STEP_MM).astype(int)
        middle = np.clip(middle, 0, points.shape[3] - 1)[columns]
        values = ndimage.map_coordinates(scan.image, points[:, columns[0], columns[1], middle], output=np.float32, order=1)
        found.append(float(values.mean()))
    return found


def require_visible_discs(scan: SpineScan, label: int, maximum: float = MAX_DISC_HU) -> None:
    """Refuse a vertebra in whose place a fracture would not be seen.

    Args:
        scan: CT with vertebra instances, any orientation.
        label: value of the vertebra.
        maximum: HU above which a disc cannot be distinguished from bone.

    Raises:
        FrameError: when a disc beside the vertebra has more, or the mask contains no whole body of it.
    """
    highest = max(disc_hu(scan, label), default=-np.inf)
    if highest > maximum:
        raise FrameError(
            f"vertebra {label}: a disc beside it has {highest:.0f} HU, more than {maximum:.0f}, "
            "so that a loss of height would not be seen; use thinner slices"
        )
