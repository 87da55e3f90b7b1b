# SPDX-License-Identifier: Apache-2.0
"""Memory of a scan, predicted from its header before any voxel is read."""

from __future__ import annotations

import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io import dicom_seg
from ..io.ct_volume import SLAB_BYTES
from ..io.scan_header import ScanHeader
from ..io.working_grid import WorkingGrid
from ..postprocessing.spine_axis import MAX_EXTENT_MM

MIB = 2**20
# Per voxel of the working grid at worst: probability 2, components 4, numbers 4, thresholded 1.
RESULT_BYTES = 11
# With one decision per vertebra: three probabilities 6, labels and bodies 2, one of them and a copy of a probability in flight 3.
VERTEBRA_RESULT_BYTES = 11
# Per voxel of the box around the spine: components, markers, levels and ages of the flood.
SPINE_BYTES = 45
MATPLOTLIB_BYTES = 48 * MIB  # of its import
VIEW_BYTES = 128 * MIB  # overview, viewer and its volume; the first figure of a process also loads fonts
DICOM_BYTES = 1 + dicom_seg.WRITE_BYTES_PER_PIXEL  # per voxel of the scan: numbers of the vertebrae, and writing them
CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # versions 2 and 1
SLACK = 200 * MIB  # slabs in flight, figures, tables


def peak_resident() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system has no such count."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def program_bytes() -> int:
    """Bytes of the program before its first scan: its peak so far, and matplotlib, which is imported beside the network."""
    return peak_resident() + (0 if "matplotlib.figure" in sys.modules else MATPLOTLIB_BYTES)


def machine_memory() -> int | None:
    """Memory of the machine, or of the container where that is less, in bytes; None where the system has no such count."""
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):  # Windows
        return None
    for file in CGROUP_FILES:
        try:
            sizes.append(int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # "max" where there is no limit
            continue
    return min((s for s in sizes if s > 0), default=None)


def parse_bytes(text: str | float | None) -> int | None:
    """Bytes of a size such as "4G", "1500M" or a number of GiB; None remains None.

    Raises:
        ValueError: when the text is not a size.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?)i?b?\s*", str(text), re.IGNORECASE)
    try:
        number = float(match[1]) if match else -1.0
    except ValueError:
        number = -1.0
    if match is None or not 0 < number < 1e9:
        raise ValueError(f"max_memory={text!r}: must be a size such as 4G or 1500M")
    return int(number * 1024 ** {"k": 1, "m": 2, "g": 3, "t": 4}[match[2].lower() or "g"])


@dataclass(frozen=True)
class MemoryPlan:
    """Upper bound of the memory of a scan, in bytes.

    Attributes:
        base: peak of the process with its networks before the scan.
        scan: voxels as 16-bit HU, and those of a given mask of vertebrae; 0 when they are in a temporary file.
        reading: buffers of the reader.
        sample: inputs of the network.
        result: probabilities and findings at worst, when the whole scan is fracture.
        spool: True when the voxels are in a temporary file.
    """

    base: int
    scan: int
    reading: int
    sample: int
    result: int
    spool: bool

    @property
    def peak(self) -> int:
        """Sum of the largest that exist at the same time, with slack."""
        return self.base + self.scan + max(self.reading, self.sample + self.result) + SLACK

    def line(self) -> str:
        """One line for the terminal."""
        gib = 2**30
        where = "in a temporary file" if self.spool else f"{self.scan / gib:.2f}"
        return (
            f"memory at most {self.peak / gib:.2f} GiB: program and network {self.base / gib:.2f}, scan {where}, "
            f"slices {self.sample / gib:.2f}, probabilities and findings {self.result / gib:.2f}"
        )


def plan_memory(
    header: ScanHeader,
    grid: WorkingGrid,
    window: tuple[int, ...],
    sw_batch_size: int,
    base: int,
    limit: int | None,
    sample: int,
    channels: int = 1,
    by_vertebra: bool = False,
    given: tuple[int, int] = (0, 0),
) -> MemoryPlan:
    """Predict the peak of a scan and choose where its voxels are held.

    Args:
        header: scan.
        grid: its working grid.
        window: voxels of a window.
        sw_batch_size: windows per batch.
        base: peak of the process so far, after one batch of its networks.
        limit: bytes allowed; None allows those of the machine.
        sample: bytes of HU that are resampled at a time.
        channels: number of channels of the network's input: a slice and its neighbours.
        by_vertebra: one decision per vertebra; its step, and the DICOM files of a series, count too.
        given: bytes of a given mask of vertebrae in memory, and with the voxels in temporary files.

    Raises:
        ValueError: when the limit is too low even with the scan in a temporary file; the message names the bytes needed.
    """
    allowed = machine_memory() if limit is None else limit
    reading = 4 * SLAB_BYTES + (header.voxels * header.dtype.itemsize if header.whole_read else 0)
    working = int(np.prod(grid.shape, dtype=np.int64))
    planes = [working // n for n in grid.shape]
    depth = window[0] if len(window) == 3 else sw_batch_size
    in_flight = max(planes) * 4 * (2 * channels + 2) * depth  # scaled slices, padded ones, their sums and weights
    sampled = max(sample, max(planes) * 2 * channels) * 2 + in_flight
    result = RESULT_BYTES * working
    if by_vertebra:
        widest = [min(n, math.ceil(MAX_EXTENT_MM / s)) for n, s in zip(grid.shape[:2], grid.spacing[:2], strict=True)]
        spine = SPINE_BYTES * widest[0] * widest[1] * grid.shape[2]
        dicom = DICOM_BYTES * header.voxels if header.series is not None else 0
        if header.series is not None and header.series.multiframe is not None:
            dicom += header.voxels  # labels of all frames, with vertebrae or not
        result = VERTEBRA_RESULT_BYTES * working + max(spine, dicom) + VIEW_BYTES
    for spool in (False, True):
        hu = 2 * working if by_vertebra and spool else 0  # the heights need HU at random places
        plan = MemoryPlan(base, given[spool] + (0 if spool else 2 * header.voxels), reading, sampled, result + hu, spool)
        if allowed is None or plan.peak <= allowed:
            return plan
    assert allowed is not None
    needed, sizes = f"{plan.peak / 2**30:.2f} GiB", " x ".join(f"{v:g}" for v in grid.spacing)
    held = f"this machine has {allowed / 2**30:.2f} GiB" if limit is None else f"only {allowed / 2**30:.2f} GiB are allowed"
    raise ValueError(
        f"{header.path}: needs up to {needed} even with its voxels in a temporary file, on a grid of {sizes} mm, but {held}; "
        "raise max_memory, or set a coarser spacing"
    )
