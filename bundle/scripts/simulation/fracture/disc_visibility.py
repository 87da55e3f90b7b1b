# SPDX-License-Identifier: Apache-2.0
"""Discs beside a vertebra in a CT: a simulated loss of height is seen only where they are soft tissue.

The space that a fracture opens is filled with the disc, stretched. In thick slices through thin discs, and where the masks of
neighbours touch, the disc has the HU of bone, and the fractured vertebra cannot be distinguished from an intact one.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ...postprocessing.vertebra_frame import HALF_EXTENT_MM, STEP_MM, FrameError, VertebraFrame, frame_points
from ..spine_scan import SpineScan

MAX_DISC_HU = 150.0  # seen in sagittal pictures of real CT: discs of 51 to 144 HU in three scans; not seen: 156 to 378 in two
EDGE_MM = 6.0  # from the side walls, where osteophytes and partial volume are, to the samples


def disc_hu(scan: SpineScan, frame: VertebraFrame, above: int | None, below: int | None) -> list[float]:
    """Mean HU in the middle of the discs above and below a vertebra, of those whose other vertebra is in the mask.

    Args:
        scan: CT with vertebra instances, any orientation.
        frame: frame of the vertebra, with its ``ceiling`` and ``floor``.
        above: label of the next vertebra towards the head, if there is one.
        below: label of the next vertebra towards the feet, if there is one.
    """
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


def require_visible_discs(scan: SpineScan, frame: VertebraFrame, above: int | None, below: int | None) -> None:
    """Refuse a vertebra in which a simulated fracture would not be seen; arguments as in ``disc_hu``.

    Raises:
        FrameError: when a disc beside the vertebra has more than ``MAX_DISC_HU``.
    """
    highest = max(disc_hu(scan, frame, above, below), default=-np.inf)
    if highest > MAX_DISC_HU:
        raise FrameError(
            f"vertebra {frame.label}: a disc beside it has {highest:.0f} HU, more than {MAX_DISC_HU:.0f}, "
            "so that a loss of height would not be seen; use thinner slices"
        )
