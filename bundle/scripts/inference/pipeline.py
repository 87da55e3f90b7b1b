# SPDX-License-Identifier: Apache-2.0
"""From a scan to probabilities in two passes: a coarse one over few slices, a fine one near its detections."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.config_values import require_values
from ..io.ct_volume import Scan
from ..io.resample import sample
from ..io.scan_header import ScanHeader
from ..io.working_grid import WorkingGrid
from ..networks.outputs import AUXILIARY, output_names
from ..postprocessing.findings import PostProcessing
from ..postprocessing.probability_map import Probabilities
from ..postprocessing.vertebra_consistency import apply_consistency
from .coarse_slices import CoarseSlices
from .predict import PLANES, PatchConfig, Sampler, predict_slices, predict_volume
from .progress import PhaseTimer, Progress, WindowCounter
from .regions import INPLANE_MARGIN_VOXELS, MODES, RegionMap, coarse_copy, largest_parts, region_around, spine_region
from .runtimes import Runner
from .windows import WindowGrid

HALF = 0.5  # probability of vertebra or body of a detection in the coarse pass
LARGE_PART = 0.2  # of the largest part of a region; smaller ones are ribs, hips and the table
LATERAL_REACH_MM = 45.0  # of transverse processes and rib heads beside the bodies; see ``POSTERIOR_REACH_MM`` of the instances
VERTEBRA_MARGIN_VOXELS = 6  # around these detections; the processes between two slices
HALO_SIGMAS = 2.0  # standard deviations of the vertebra-level average that the fine pass covers around a detection


class Pipeline:
    """Networks, patch extraction, search and post-processing of scans.

    Args:
        runners: networks by plane ("sagittal", "coronal", "axial"), or "volume" for 3D windows; the probabilities of several
            networks of a plane, and of several planes, are averaged.
        patch: patch extraction.
        post: post-processing; its vertebra-level consistency needs the networks' output of vertebra.
        spacing: mm of the working grid along R, A, S; below 0 keeps that of the scan.
        search: region of the coarse pass: "spine" around dense bone, "bone" around any bone, "all" everywhere.
        coarse_mm: distance between the slices of the coarse pass; 0 predicts every slice at once, as MONAI's ``SliceInferer`` does.
        coarse_threshold: probability of fracture above which a voxel is a detection in the coarse pass.
        channels: channels of the networks' input without neighbouring slices.
        cortex_mm: the farthest that masks of vertebrae grow to the outer edge of their cortex, see ``cortex_surface``; 0 keeps
            those of the networks.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        runners: Mapping[str, Sequence[Runner]],
        patch: PatchConfig,
        post: PostProcessing | None = None,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        search: str = "spine",
        coarse_mm: float = 6.0,
        coarse_threshold: float = 0.1,
        channels: int = 1,
        cortex_mm: float = 0.0,
    ) -> None:
        planes = ("volume",) if len(patch.size) == 3 else tuple(PLANES)
        if not runners or any(p not in planes for p in runners):
            raise ValueError(f"planes={list(runners)}: must be one or more of {', '.join(planes)} for {len(patch.size)}D windows")
        if search not in MODES:
            raise ValueError(f"search={search!r}: must be one of {', '.join(MODES)}")
        require_values({"coarse_mm": coarse_mm, "coarse_threshold": coarse_threshold, "spacing": spacing, "cortex_mm": cortex_mm})
        self.channels, self.cortex_mm = channels, cortex_mm
        self.runners, self.patch, self.post, self.spacing = runners, patch, post or PostProcessing(), tuple(spacing)
        self.search, self.coarse_mm, self.coarse_threshold = search, coarse_mm, coarse_threshold
        self._outputs: tuple[str, ...] | None = None
        self._lock = threading.Lock()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that all networks have."""
        if self._outputs is None:
            channels = self.num_channels
            runners = {id(r): r for members in self.runners.values() for r in members}.values()
            counts = [getattr(r, "num_outputs", 0) or r(torch.zeros(1, channels, *self.patch.size)).shape[1] for r in runners]
            self._outputs = output_names(min(counts))
        return self._outputs

    @property
    def num_channels(self) -> int:
        """Channels of the networks' input."""
        return self.channels * self.patch.num_context_slices

    @property
    def by_vertebra(self) -> bool:
        """True where the networks separate vertebrae and the decision is one per vertebra."""
        return self.post.decision == "vertebra" and "body" in self.outputs

    def working_grid(self, header: ScanHeader) -> WorkingGrid:
        """Working grid of a scan."""
        return WorkingGrid.plan(header.shape, header.affine, self.spacing)

    def __call__(
        self, scan: Scan, grid: WorkingGrid, timer: PhaseTimer | None = None, progress: Progress | None = None
    ) -> Probabilities:
        """Predict the probabilities of a scan; of several threads one after the other.

        Args:
            scan: voxels.
            grid: as of ``working_grid``.
            timer: receives the seconds of "search", "resample" and "network".
            progress: called with a phase, the number of windows done, and the total.
        """
        timer = timer or PhaseTimer()
        with timer("search"):
            hu, coordinates = coarse_copy(scan, grid)
            spine = spine_region(hu, coordinates, grid, self.search)

        def sampler(indices: Sequence[NDArray[np.int64]]) -> NDArray[np.int16]:
            with timer("resample"):
                return sample(scan.slab, grid, indices)

        with self._lock:
            before, start = timer.seconds.get("resample", 0.0), time.perf_counter()
            predicted = self._predict(sampler, grid, spine, progress)
            elapsed = time.perf_counter() - start
        timer.seconds["network"] = elapsed - (timer.seconds.get("resample", 0.0) - before)
        return predicted

    def _predict(self, sampler: Sampler, grid: WorkingGrid, spine: RegionMap, progress: Progress | None) -> Probabilities:
        if len(self.patch.size) == 3:
            return self._predict_volume(sampler, grid, spine, progress)
        region, num_coarse_windows, predicted = spine, 0, CoarseSlices()
        if self.coarse_mm > 0:
            region, num_coarse_windows, predicted = self._coarse_pass(sampler, grid, spine, progress)
        windows = {plane: self._fine_windows(grid, plane, region) for plane in self.runners}
        first = next(iter(self.runners))
        by_slice, window_grid = windows[first]
        kept = predicted.of_region(region, PLANES[first], window_grid, by_slice)
        windows[first] = {k: starts for k, starts in by_slice.items() if k not in kept}, window_grid
        total = sum(len(starts) for by_slice, _ in windows.values() for starts in by_slice.values())
        count = WindowCounter(progress, "fine pass", total)
        views: list[tuple[int, Iterable[tuple[int, NDArray]]]] = []
        for plane, (by_slice, window_grid) in windows.items():
            axis, runners = PLANES[plane], self.runners[plane]
            fine = predict_slices(sampler, grid.shape, axis, by_slice, window_grid, self.patch, runners, count)
            views.append((axis, itertools.chain(kept.items(), fine) if plane == first else fine))
        whole = self.coarse_mm == 0 and region.mask.any()
        bounds = None if whole else region.bounds(grid.shape)
        return self._average(grid, views, (num_coarse_windows, total), bounds)

    def _predict_volume(self, sampler: Sampler, grid: WorkingGrid, spine: RegionMap, progress: Progress | None) -> Probabilities:
        window_grid = WindowGrid.plan(grid.shape, self.patch.size, self.patch.overlap)
        before, size = window_grid.before, window_grid.window
        windows = [s for s in window_grid.all() if spine.intersects([a - b for a, b in zip(s, before, strict=True)], size)]
        count = WindowCounter(progress, "fine pass", len(windows))
        slices = predict_volume(sampler, grid.shape, windows, window_grid, self.patch, self.runners["volume"], count)
        return self._average(grid, [(0, slices)], (0, len(windows)))

    def _window_grid(self, grid: WorkingGrid, axis: int) -> WindowGrid:
        size = [n for a, n in enumerate(grid.shape) if a != axis]
        return WindowGrid.plan(size, self.patch.size, self.patch.overlap)

    def _fine_windows(
        self, grid: WorkingGrid, plane: str, region: RegionMap
    ) -> tuple[dict[int, list[tuple[int, ...]]], WindowGrid]:
        """Windows of a plane by slice: those that intersect the region, or with one decision per vertebra few that cover it."""
        axis = PLANES[plane]
        window_grid, slices = self._window_grid(grid, axis), np.arange(grid.shape[axis])
        # The mean over a body needs every voxel once; the mask of single voxels also the average of overlapping windows.
        choose = window_grid.cover if self.by_vertebra else window_grid.touching
        by_slice = {int(k): choose(*region.plane(axis, int(k))) for k in slices[region.intersects_slices(axis, slices)]}
        return by_slice, window_grid

    def _coarse_pass(
        self, sampler: Sampler, grid: WorkingGrid, spine: RegionMap, progress: Progress | None
    ) -> tuple[RegionMap, int, CoarseSlices]:
        """Region around the detections on slices some distance apart, the number of windows on them, and slices to keep."""
        plane = next(iter(self.runners))
        axis = PLANES[plane]
        step = max(round(self.coarse_mm / grid.spacing[axis]), 1)
        window_grid = self._window_grid(grid, axis)
        slices = np.arange(min(step // 2, (grid.shape[axis] - 1) // 2), grid.shape[axis], step)
        slices = slices[spine.intersects_slices(axis, slices)]
        num_windows, kept = 0, CoarseSlices()

        def predict(chosen: NDArray[np.int64], area: RegionMap, phase: str) -> Iterator[tuple[int, NDArray[np.float32]]]:
            nonlocal num_windows
            windows = {int(k): window_grid.cover(*area.plane(axis, int(k))) for k in chosen}
            total = sum(map(len, windows.values()))
            num_windows += total
            counter = WindowCounter(progress, phase, total)
            for k, p in predict_slices(sampler, grid.shape, axis, windows, window_grid, self.patch, self.runners[plane], counter):
                if self.by_vertebra:
                    kept.add(k, p, windows[k])
                yield k, p

        if self.by_vertebra:  # every vertebra, not only the fractured ones
            detections: list[tuple[int, NDArray[np.bool_]]] = []
            bodies: list[tuple[int, NDArray[np.bool_]]] = []
            area = spine
            # No vertebra is narrower than two steps; the slices between follow only near the largest parts, not along the ribs.
            for chosen, phase, margin in ((slices[::2], "coarse pass", 2 * step), (slices[1::2], "coarse pass, between", step)):
                chosen = chosen[area.intersects_slices(axis, chosen)]
                for k, p in predict(chosen, area, phase):
                    detections.append((k, p[1:].max(axis=0) > HALF))
                    bodies.append((k, p[2] > HALF))
                parts = [
                    largest_parts(region_around(grid.shape, axis, found, margin, VERTEBRA_MARGIN_VOXELS), axis, found, LARGE_PART)
                    for found in (detections, bodies)
                ]
                near = parts[0].beside(parts[1], LATERAL_REACH_MM, grid)
                region = near if near.mask.any() else parts[1]  # the largest part of the vertebrae was none of a spine
                area = region if region.mask.any() else area  # a narrow scan may show its vertebrae on the slices between only
            return region, num_windows, kept
        predicted = predict(slices, spine, "coarse pass")
        detections = [(k, probabilities[0] > self.coarse_threshold) for k, probabilities in predicted]
        # The fine pass covers the vertebra of a detection as far as the vertebra-level average has much weight.
        consistency_mm = self.post.consistency_mm or (0, 0, 0)
        halo_voxels = [math.ceil(HALO_SIGMAS * mm / s) for mm, s in zip(consistency_mm, grid.spacing, strict=True)]
        inplane_halo = max(n for a, n in enumerate(halo_voxels) if a != axis)
        region = region_around(
            grid.shape, axis, detections,
            slice_margin=step + halo_voxels[axis], inplane_margin=INPLANE_MARGIN_VOXELS + inplane_halo,
        )  # fmt: skip
        return region, num_windows, kept

    def _average(
        self,
        grid: WorkingGrid,
        views: Sequence[tuple[int, Iterable[tuple[int, NDArray]]]],
        num_windows: tuple[int, int],
        bounds: Sequence[tuple[int, int]] | None = None,
    ) -> Probabilities:
        """Mean of the views in a box.

        Where all networks have an output of vertebra and the decision is not one per vertebra, with vertebra-level consistency.
        """
        bounds = bounds or [(0, n) for n in grid.shape]
        by_vertebra, consistency_mm = self.by_vertebra, self.post.consistency_mm
        num_outputs = len(self.outputs) - 1 if by_vertebra else min(len(self.outputs) - 1, 1 + (consistency_mm is not None))
        volumes = [np.zeros([b - a for a, b in bounds], np.float16) for _ in range(num_outputs)]
        for axis, slices in views:
            across = tuple(slice(*b) for a, b in enumerate(bounds) if a != axis)
            for k, probabilities in slices:
                if bounds[axis][0] <= k < bounds[axis][1]:
                    for volume, probability in zip(volumes, probabilities[:num_outputs], strict=True):
                        mean = torch.from_numpy(np.moveaxis(volume, axis, 0)[k - bounds[axis][0]])
                        share = torch.from_numpy(probability[across]) / len(views)
                        mean.add_(share.to(torch.float16))  # PyTorch converts to half precision many times as fast as NumPy
        if num_outputs == 2 and not by_vertebra:
            apply_consistency(volumes[0], volumes[1], grid.spacing, consistency_mm, self.post.consistency_fraction)
        auxiliary = dict(zip(AUXILIARY, volumes[1:], strict=False)) if by_vertebra else {}
        return Probabilities(volumes[0], tuple(b[0] for b in bounds), num_windows, auxiliary)  # type: ignore[arg-type]
