# SPDX-License-Identifier: Apache-2.0
"""Overview picture and viewer page of one scan, written while its voxels and vertebrae are in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..io.ct_volume import Scan
from ..io.working_grid import WorkingGrid
from ..postprocessing.vertebra_record import VertebraRecord
from .html_report import picture
from .vertebra_overview import save_overview
from .vertebra_table import vertebra_block
from .viewer_volume import spine_volume
from .volume_viewer import viewer_block, write_viewer


def save_vertebra_views(
    base: Path,
    scan: Scan,
    grid: WorkingGrid,
    instances: NDArray[np.uint8],
    origin: Sequence[int],
    records: Sequence[VertebraRecord],
    title: str,
    viewer: bool = True,
) -> list[Path]:
    """Write ``<base>_overview.png`` and ``<base>_viewer.html``, each atomically.

    Args:
        base: path of the outputs of the scan without ending.
        scan: voxels in HU.
        grid: working grid.
        instances: ``VertebraRecord.vertebra`` of every voxel (R, A, S) of a box of the working grid, 0 elsewhere.
        origin: first voxel of the box in the working grid.
        records: rows of the vertebrae; an empty list shows the whole scan and "no vertebra found".
        title: name of the scan, by which the report connects table and viewer.
        viewer: whether the page with the viewer is written too.

    Returns:
        The files.

    Raises:
        ImportError: without matplotlib.
    """
    volume = spine_volume(scan, grid, instances, origin)
    overview = base.with_name(f"{base.name}_overview.png")
    with ThreadPoolExecutor(1) as pool:  # zlib compresses the scan for the page while the overview is drawn
        pending = pool.submit(viewer_block, title, volume, records) if viewer else None
        marks = save_overview(overview, volume, records, title)
    if pending is None:
        return [overview]
    path = base.with_name(f"{base.name}_viewer.html")
    block = vertebra_block(title, records, picture(overview, f"overview of {title}"), marks)
    return [overview, write_viewer(path, title, pending.result(), block)]
