# SPDX-License-Identifier: Apache-2.0
"""From a scan to probabilities: look everywhere on few slices, then closely where something was found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.scan_header import ScanHeader
from ..io.working_grid import WorkingGrid
from ..postprocessing.probability_map import Probabilities
from ..postprocessing.vertebra_consistency import apply_consistency, check_consistency
from .predict import PLANES, PatchConfig, Sampler, predict_slices, predict_volume
from .regions import MARGIN, MODES, RegionMap, coarse_copy, region_around, spine_region
from .runtimes import Runner
from .windows import WindowGrid

Progress = Callable[[str, int, int], None]  # phase, done, total
REACH = 2.0  # standard deviations of the agreement that are looked at around a hit


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


class Pipeline:
    """Networks and how they look at scans.

    Args:
        runners: networks by plane ("sagittal", "coronal", "axial"); several of a plane are averaged, several planes too. For 3D
            windows the one key "volume".
        window: how they see a scan.
        spacing: mm of the working grid along R, A, S; below 0 keeps the scan's own.
        search: "spine" looks only around dense bone, "bone" around any bone, "all" everywhere.
        coarse_mm: distance of the slices of the first look; 0 looks at every slice at once, as MONAI's ``SliceInferer`` does.
        coarse_threshold: probability in the first look from which on a place is looked at closely.
        consistency_mm: how far the slices of a vertebra agree along R, A, S, where the networks tell vertebra; None leaves each to
            itself.
        consistency_fraction: share of fracture in a vertebra that makes it fractured; see ``apply_consistency``.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        runners: Mapping[str, Sequence[Runner]],
        window: PatchConfig,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        search: str = "spine",
        coarse_mm: float = 6.0,
        coarse_threshold: float = 0.1,
        consistency_mm: Sequence[float] | None = None,
        consistency_fraction: float = 0.4,
    ) -> None:
        known = ("volume",) if len(window.size) == 3 else tuple(PLANES)
        wrong = [p for p in runners if p not in known]
        if wrong or not runners:
            raise ValueError(f"planes={list(runners)}: give some of {', '.join(known)} for {len(window.size)}D windows")
        if search not in MODES:
            raise ValueError(f"search={search!r}: give one of {', '.join(MODES)}")
        if coarse_mm < 0:
            raise ValueError(f"coarse_mm={coarse_mm}: give a distance in mm, or 0")
        if not 0 < coarse_threshold < 1:
            raise ValueError(f"coarse_threshold={coarse_threshold}: give a probability above 0 and below 1")
        if len(spacing) != 3 or any(s == 0 for s in spacing):
            raise ValueError(f"spacing={list(spacing)}: give three distances in mm")
        check_consistency(consistency_mm, consistency_fraction)
        self.consistency_mm, self.consistency_fraction = consistency_mm, consistency_fraction
        self.runners, self.window, self.spacing = runners, window, tuple(spacing)
        self.search, self.coarse_mm, self.coarse_threshold = search, coarse_mm, coarse_threshold

    def plan_header(self, header: ScanHeader) -> WorkingGrid:
        """Working grid of a scan."""
        return WorkingGrid.plan(header.shape, header.affine, self.spacing)

    def __call__(self, scan: Scan, grid: WorkingGrid, clock: Clock, progress: Progress | None = None) -> Probabilities:
        """Ask the networks about a scan.

        Args:
            scan: voxels.
            grid: as of ``plan_header``.
            clock: takes the seconds of "search", "resample" and "network".
            progress: called with a phase, what is done, and the total.
        """
        with clock("search"):
            hu, places = coarse_copy(scan, grid)
            spine = spine_region(hu, places, grid, self.search)

        def sampler(indices: Sequence[NDArray[np.int64]]) -> NDArray[np.int16]:
            with clock("resample"):
                return sample(scan.slab, grid, indices)

        before = clock.seconds.get("resample", 0.0)
        start = time.perf_counter()
        found = self._look(sampler, grid, spine, progress)
        spent = time.perf_counter() - start
        clock.seconds["network"] = spent - (clock.seconds.get("resample", 0.0) - before)
        return found

    def _look(self, sampler: Sampler, grid: WorkingGrid, spine: RegionMap, progress: Progress | None) -> Probabilities:
        shape = grid.shape
        if len(self.window.size) == 3:
            windows = WindowGrid.plan(shape, self.window.size, self.window.overlap)
            wanted = [
                s for s in windows.all() if spine.window([a - b for a, b in zip(s, windows.before)], windows.window)
            ]
            planes = predict_volume(
                sampler, shape, wanted, windows, self.window, self.runners["volume"],
                _counter(progress, "segmenting", len(wanted)),
            )  # fmt: skip
            return self._collect(grid, [(0, planes)], (0, len(wanted)))
        first = next(iter(self.runners))
        focus, looked = spine, 0
        if self.coarse_mm > 0:
            focus, looked = self._first_look(sampler, grid, spine, first, progress)
        jobs = {plane: self._wanted(grid, plane, focus) for plane in self.runners}
        total = sum(len(starts) for slices, _ in jobs.values() for starts in slices.values())
        count = _counter(progress, "segmenting", total)
        views = [
            (
                PLANES[plane],
                predict_slices(sampler, shape, PLANES[plane], slices, windows, self.window, self.runners[plane], count),
            )
            for plane, (slices, windows) in jobs.items()
        ]
        box = [np.flatnonzero(focus.mask.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
        if self.coarse_mm == 0 or any(len(b) == 0 for b in box):
            box = [np.arange(0) if len(b) == 0 else np.arange(n) for b, n in zip(box, shape, strict=True)]
            bounds = [(0, len(b)) for b in box]
        else:
            steps = [max(int(np.ceil(float(np.diff(p).max()))), 1) if len(p) > 1 else 1 for p in focus.places]
            bounds = [
                (max(int(p[b[0]]) - s, 0), min(int(p[b[-1]]) + s + 1, n))
                for b, p, s, n in zip(box, focus.places, steps, shape, strict=True)
            ]
        return self._collect(grid, views, (looked, total), bounds)

    def _wanted(
        self, grid: WorkingGrid, plane: str, focus: RegionMap
    ) -> tuple[dict[int, list[tuple[int, ...]]], WindowGrid]:
        """Windows of every slice of a plane that hold any of what is looked at."""
        axis = PLANES[plane]
        size = [n for a, n in enumerate(grid.shape) if a != axis]
        windows = WindowGrid.plan(size, self.window.size, self.window.overlap)
        slices = np.arange(grid.shape[axis])
        return {
            int(k): windows.touching(*focus.plane(axis, int(k))) for k in slices[focus.holds(axis, slices)]
        }, windows

    def _first_look(
        self, sampler: Sampler, grid: WorkingGrid, spine: RegionMap, plane: str, progress: Progress | None
    ) -> tuple[RegionMap, int]:
        """Look at slices some distance apart, with no more windows than cover what can hold spine."""
        axis = PLANES[plane]
        step = max(round(self.coarse_mm / grid.spacing[axis]), 1)
        size = [n for a, n in enumerate(grid.shape) if a != axis]
        windows = WindowGrid.plan(size, self.window.size, self.window.overlap)
        slices = np.arange(min(step // 2, (grid.shape[axis] - 1) // 2), grid.shape[axis], step)
        slices = slices[spine.holds(axis, slices)]
        wanted = {int(k): windows.cover(*spine.plane(axis, int(k))) for k in slices}
        total = sum(map(len, wanted.values()))
        looked = predict_slices(
            sampler, grid.shape, axis, wanted, windows, self.window, self.runners[plane],
            _counter(progress, "looking", total),
        )  # fmt: skip
        hits = [(k, chance[0] > self.coarse_threshold) for k, chance in looked]
        # The vertebra of a hit is looked at as far as the average has much weight.
        far = [
            math.ceil(REACH * mm / size)
            for mm, size in zip(self.consistency_mm or (0, 0, 0), grid.spacing, strict=True)
        ]
        beside = max(n for a, n in enumerate(far) if a != axis)
        return region_around(grid.shape, axis, hits, reach=step + far[axis], margin=MARGIN + beside), total

    def _collect(
        self,
        grid: WorkingGrid,
        views: Sequence[tuple[int, Iterator[tuple[int, NDArray[np.float32]]]]],
        windows: tuple[int, int],
        bounds: Sequence[tuple[int, int]] | None = None,
    ) -> Probabilities:
        """Mean of the views in a box, after the slices of a vertebra agreed."""
        bounds = bounds or [(0, n) for n in grid.shape]
        volumes = [np.zeros([b - a for a, b in bounds], np.float16)]
        known = set()  # outputs of each view: what not all of them tell is not averaged
        for axis, planes in views:
            across = tuple(slice(*b) for a, b in enumerate(bounds) if a != axis)
            for k, chances in planes:
                told = len(chances) if self.consistency_mm is not None else 1
                known.add(told)
                while len(volumes) < told:
                    volumes.append(np.zeros_like(volumes[0]))
                if bounds[axis][0] <= k < bounds[axis][1]:
                    for volume, chance in zip(volumes, chances[:told], strict=False):
                        np.moveaxis(volume, axis, 0)[k - bounds[axis][0]] += (chance[across] / len(views)).astype(
                            np.float16
                        )
        if known == {2}:
            apply_consistency(volumes[0], volumes[1], grid.spacing, self.consistency_mm, self.consistency_fraction)
        return Probabilities(volumes[0], tuple(b[0] for b in bounds), windows)  # type: ignore[arg-type]


def _count(progress: Progress, phase: str, total: int, state: list[int], number: int) -> None:
    state[0] += number
    progress(phase, state[0], total)


def _counter(progress: Progress | None, phase: str, total: int) -> Callable[[int], None] | None:
    return None if progress is None else partial(_count, progress, phase, total, [0])
