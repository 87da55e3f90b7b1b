# SPDX-License-Identifier: Apache-2.0
"""Vertebra instances: one label per visible vertebra, with its body and its posterior elements.

The bodies are separated by planes across the axis of the spine. What is vertebra floods from the bodies, and posterior elements
go to the vertebra whose anatomy they fit. ``docs/history/vertebra_separators.md`` compares this with other separators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure
from scipy.spatial import cKDTree
from skimage.segmentation import watershed

from ..core.components import label_components
from .posterior_elements import assign_posterior
from .spine_axis import BODY_PROBABILITY, REACH_MM, SpineAxis, body_width, disc_profile, find_axis, spine_bodies, spine_box
from .vertebra_cuts import Segment, cut_profile

VERTEBRA_PROBABILITY = 0.5
MIN_INSTANCE_ML = 1.5  # of a body; less is noise or a remnant at the border
POSTERIOR_REACH_MM = 75.0  # of the tip of a spinous process from the centre of the body
TUBE = 0.5  # radius of the body around the axis per width, in which another vertebra is body and not a process
TUBE_MARGIN_MM = 4.0  # of a vertebra beyond its cuts in that tube: the rim of an endplate
ISOLATED_MM, ISOLATED_VOLUME = 25.0, 0.5  # a body so far from the next is kept if it has this fraction of the median volume
FRAGMENT_REACH_MM, MIN_FRAGMENT_ML = 6.0, 0.3  # of a separate part from its vertebra, and the smallest that is kept
CUT_AREA_MM2 = 100.0  # on the border: whole bodies in tight crops have up to 93, cut ones 252 and more (nine masks)
REMNANT_VOLUME, REMNANT_PROBABILITY = 0.5, 0.8  # of the body above, and mean probability of body, see ``_is_sacral_remnant``
LEVELS_OF_FLOODING = 20  # of probability, from body to soft tissue


@dataclass(frozen=True)
class BodyShape:
    """Position of a vertebra on the axis of the spine.

    Attributes:
        width_mm: square root of the area of the body across the axis.
        tilt_below_deg: inclination of the disc below in the sagittal plane, positive where it faces backwards, as L5/S1.
    """

    width_mm: float
    tilt_below_deg: float


@dataclass
class VertebraInstances:
    """Vertebrae of a scan in a box of the working grid, numbered from the head to the feet.

    Attributes:
        labels: (R, A, S) number of the vertebra, 0 elsewhere, uint8.
        bodies: (R, A, S) voxels of vertebral bodies.
        complete: by number; False for a vertebra whose body the border of the scan cuts.
        axis: axis of the spine, None without a vertebra.
        shapes: width and inclination by number.
    """

    labels: NDArray[np.uint8]
    bodies: NDArray[np.bool_]
    complete: dict[int, bool]
    axis: SpineAxis | None = None
    shapes: dict[int, BodyShape] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        """Numbers of the vertebrae from the head to the feet."""
        return sorted(self.complete)

    def without(self, number: int) -> VertebraInstances:
        """Instances without one of them; the numbers after it move up."""
        keep = [n for n in self.numbers if n != number]
        lookup = np.zeros(256, np.uint8)
        lookup[keep] = np.arange(1, len(keep) + 1)
        labels = lookup[self.labels]
        complete = {int(lookup[n]): self.complete[n] for n in keep}
        shapes = {int(lookup[n]): self.shapes[n] for n in keep if n in self.shapes}
        return VertebraInstances(labels, self.bodies & (labels > 0), complete, self.axis, shapes)


def _empty(shape: Sequence[int]) -> VertebraInstances:
    return VertebraInstances(np.zeros(shape, np.uint8), np.zeros(shape, bool), {})


def _segment_of_voxels(
    voxels: NDArray[np.int64], axis: SpineAxis, segments: Sequence[Segment], normals: NDArray, spacing: Sequence[float]
) -> NDArray[np.int64]:
    """Index of the segment (K,) of voxels (K, 3) of bodies, -1 outside all segments."""
    points = voxels * np.array(spacing)
    distance, nearest = cKDTree(axis.points).query(points)
    result = np.full(len(voxels), -1)
    for k, segment in enumerate(segments):
        # Far from a cut the nearest point of the axis decides, near it the tilted plane.
        near = (nearest >= segment.start - 15) & (nearest <= segment.stop + 15)
        below_start = ((points[near] - axis.points[segment.start]) * normals[segment.start]).sum(1) >= 0
        above_stop = ((points[near] - axis.points[segment.stop]) * normals[segment.stop]).sum(1) < 0
        inside = np.flatnonzero(near)[below_start & above_stop]
        result[inside] = k
    result[distance > REACH_MM + 8] = -1
    return result


def _main_parts(labels: NDArray[np.int32], count: int, spacing: Sequence[float]) -> tuple[NDArray[np.int32], list[int]]:
    """Largest component of every body, renumbered without those that are too small or isolated, and the former indices."""
    voxel_ml = float(np.prod(spacing)) / 1000
    found: list[tuple[int, tuple[slice, ...], NDArray[np.bool_], float]] = []
    for k, box in enumerate(find_objects(labels, max_label=count)):
        if box is None:
            continue
        parts, n = label_components(labels[box] == k + 1)
        sizes = np.bincount(parts.ravel(), minlength=2)[1:]
        if n and sizes.max() * voxel_ml >= MIN_INSTANCE_ML:
            found.append((k, box, parts == 1 + int(np.argmax(sizes)), float(sizes.max() * voxel_ml)))
    median = float(np.median([f[3] for f in found])) if found else 0.0
    for end in (0, -1):
        while len(found) > 2 and found[end][3] < ISOLATED_VOLUME * median:
            a, b = found[end][1][2], found[end + 1 if end == 0 else end - 1][1][2]
            if (max(a.start, b.start) - min(a.stop, b.stop)) * spacing[2] < ISOLATED_MM:
                break
            found.pop(end)
    result = np.zeros_like(labels)
    for number, (_, box, mask, _) in enumerate(found, 1):
        result[box][mask] = number
    return result, [f[0] for f in found]


def _clear_tube(
    labels: NDArray[np.uint8],
    markers: NDArray[np.int32],
    axis: SpineAxis,
    segments: Sequence[Segment],
    width: NDArray[np.float64],
    spacing: Sequence[float],
) -> None:
    """Remove what flowed around the axis beyond the cuts of its vertebra: the body of a neighbour that was not detected."""
    voxels = np.argwhere((labels > 0) & (markers == 0))
    distance, nearest = cKDTree(axis.points).query(voxels * np.array(spacing), distance_upper_bound=2 * REACH_MM)
    inside = distance < TUBE * width[np.minimum(nearest, len(axis) - 1)]
    voxels, nearest = voxels[inside], nearest[inside]
    number = labels[tuple(voxels.T)].astype(int) - 1
    starts, stops = (np.array([getattr(s, name) for s in segments]) for name in ("start", "stop"))
    beyond = (nearest < starts[number] - TUBE_MARGIN_MM) | (nearest > stops[number] + TUBE_MARGIN_MM)
    labels[tuple(voxels[beyond].T)] = 0


def find_vertebrae(
    vertebra: NDArray, body: NDArray, spacing: Sequence[float], border: Sequence[tuple[bool, bool]] = ((True, True),) * 3
) -> VertebraInstances:
    """Separate the vertebrae of a scan.

    Args:
        vertebra: probabilities of vertebra (R, A, S).
        body: probabilities of vertebral body (R, A, S).
        spacing: mm.
        border: for each axis, True where its first and its last plane are the border of the scan.
    """
    box = spine_box(body, spacing, POSTERIOR_REACH_MM) if body.size else None
    if box is None:
        return _empty(body.shape)
    inner = tuple((ends[0] and s.start == 0, ends[1] and s.stop == n) for ends, s, n in zip(border, box, body.shape, strict=True))
    found = _find_in_box(vertebra[box], body[box], spacing, inner)
    result = _empty(body.shape)
    result.labels[box], result.bodies[box] = found.labels, found.bodies
    offset = np.array([s.start for s in box]) * np.array(spacing)
    axis = None if found.axis is None else SpineAxis(found.axis.points + offset, found.axis.tangents)
    return VertebraInstances(result.labels, result.bodies, found.complete, axis, found.shapes)


def _find_in_box(
    vertebra: NDArray, body: NDArray, spacing: Sequence[float], border: Sequence[tuple[bool, bool]]
) -> VertebraInstances:
    """Vertebrae in the box of a spine, see ``find_vertebrae``."""
    bodies = spine_bodies(body, spacing)
    axis = find_axis(bodies, spacing)
    if axis is None:
        return _empty(body.shape)
    masked = np.where(bodies, body, np.minimum(body, BODY_PROBABILITY)).astype(np.float32)
    profile, normals = disc_profile(masked, axis, spacing)
    width = body_width(bodies, axis, spacing)
    segments = cut_profile(profile, width)
    if not segments:
        return _empty(body.shape)
    voxels = np.argwhere(bodies)
    index = _segment_of_voxels(voxels, axis, segments, normals, spacing)
    raw = np.zeros(body.shape, np.int32)
    raw[tuple(voxels.T)] = index + 1
    markers, kept = _main_parts(raw, len(segments), spacing)
    cut_below = border[2][0] and bool((markers[:, :, 0] == len(kept)).any())
    if len(kept) > 2 and not cut_below and _is_sacral_remnant(markers, len(kept), body):
        markers[markers == len(kept)] = 0
        kept.pop()
    count = len(kept)
    if not count:
        return _empty(body.shape)
    labels = _flood(markers, vertebra, spacing)
    _clear_tube(labels, markers, axis, [segments[k] for k in kept], width, spacing)
    complete = complete_bodies(markers, count, spacing, border)
    shapes = {n: _shape(segments[k], axis, normals, width) for n, k in enumerate(kept, 1)}
    return VertebraInstances(labels, (markers > 0) & (labels > 0), complete, axis, shapes)


def _is_sacral_remnant(markers: NDArray[np.int32], last: int, body: NDArray) -> bool:
    """True where the lowest body is a small part of one and uncertain: what a network takes for body in the sacrum."""
    inside, above = markers == last, np.count_nonzero(markers == last - 1)
    return bool(np.count_nonzero(inside) < REMNANT_VOLUME * above and float(body[inside].mean()) < REMNANT_PROBABILITY)


def complete_bodies(
    markers: NDArray[np.int32], count: int, spacing: Sequence[float], border: Sequence[tuple[bool, bool]]
) -> dict[int, bool]:
    """By number, False for a body of which more than ``CUT_AREA_MM2`` lie on the border of the scan.

    Args:
        markers: number of every voxel (R, A, S) of a body, 0 elsewhere.
        count: number of bodies.
        spacing: mm.
        border: for each axis, True where its first and its last plane are the border of the scan.
    """
    complete = dict.fromkeys(range(1, count + 1), True)
    for dimension, ends in enumerate(border):
        voxel_mm2 = float(np.prod([s for a, s in enumerate(spacing) if a != dimension]))
        for end, is_border in zip((0, -1), ends, strict=True):
            if is_border:
                area = np.bincount(np.take(markers, end, dimension).ravel(), minlength=count + 1) * voxel_mm2
                complete.update({int(n): False for n in np.flatnonzero(area > CUT_AREA_MM2) if n})
    return complete


def _shape(segment: Segment, axis: SpineAxis, normals: NDArray[np.float64], width: NDArray[np.float64]) -> BodyShape:
    tilts = [np.degrees(np.arctan2(-v[1], -v[2])) for v in (normals[segment.stop], axis.tangents[segment.stop])]
    return BodyShape(float(width[(segment.start + segment.stop) // 2]), float(min(tilts)))


def _flood(markers: NDArray[np.int32], vertebra: NDArray, spacing: Sequence[float]) -> NDArray[np.uint8]:
    """Instances (R, A, S) that grow from their bodies through vertebra, the most probable voxels first."""
    box = tuple(
        slice(max(s.start - round(POSTERIOR_REACH_MM / d), 0), s.stop + round(POSTERIOR_REACH_MM / d))
        for s, d in zip(find_objects((markers > 0).astype(np.uint8))[0], spacing, strict=True)
    )
    probability, seeds = vertebra[box], markers[box]
    mask = (probability > VERTEBRA_PROBABILITY) | (seeds > 0)
    level = ((1 - probability.astype(np.float32)) * LEVELS_OF_FLOODING).astype(np.uint8)
    grown = watershed(level, seeds, mask=mask)
    labels = np.zeros(markers.shape, np.uint8)
    labels[box] = grown
    del grown, level
    for n, part in enumerate(find_objects(labels), 1):
        if part is None:
            continue
        centre = np.argwhere(markers[part] == n).mean(axis=0) * spacing
        inside = np.argwhere(labels[part] == n)
        far = np.linalg.norm(inside * np.array(spacing) - centre, axis=1) > POSTERIOR_REACH_MM
        if far.any():
            view = labels[part]
            view[tuple(inside[far].T)] = 0
    assign_posterior(labels, markers, int(markers.max()), spacing)
    return _without_fragments(labels, markers, vertebra, spacing)


def _without_fragments(
    labels: NDArray[np.uint8], markers: NDArray[np.int32], vertebra: NDArray, spacing: Sequence[float]
) -> NDArray[np.uint8]:
    """Instances without specks: separate parts near a vertebra join it when they are large, and are left out otherwise.

    The tip of a spinous process or an articular process can be separate on a coarse grid.
    """
    reach = max(round(FRAGMENT_REACH_MM / max(spacing)), 1)
    near = binary_dilation(labels > 0, generate_binary_structure(3, 1), iterations=reach)
    parts, _ = label_components((np.asarray(vertebra > VERTEBRA_PROBABILITY) & near) | (labels > 0))
    # A component of vertebra and instances together that contains no body is separate from all of them.
    seeded = np.unique(parts[markers > 0])
    sizes = np.bincount(parts.ravel()) * float(np.prod(spacing)) / 1000
    grown = labels.copy()
    for number, box in enumerate(find_objects(parts), 1):
        if box is None or number in seeded:
            continue
        wide = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
        counts = np.bincount(labels[wide].ravel(), minlength=2)
        counts[0] = 0
        view = grown[box]
        view[parts[box] == number] = int(np.argmax(counts)) if counts.any() and sizes[number] >= MIN_FRAGMENT_ML else 0
    for number, box in enumerate(find_objects(grown), 1):
        if box is None:
            continue
        inside = grown[box] == number
        parts, count = label_components(inside)
        if count < 2:
            continue
        small = np.bincount(parts.ravel()) * float(np.prod(spacing)) / 1000 < MIN_FRAGMENT_ML
        small[0] = False
        small[np.unique(parts[(markers[box] == number) & inside])] = False
        grown[box][small[parts]] = 0
    return grown
