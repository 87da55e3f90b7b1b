# SPDX-License-Identifier: Apache-2.0
"""Slices of one folder, and the reasons why those of several folders are no single series.

Two acquisitions in one volume are worse than two halves of one, so folders are joined only where their headers leave no doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dicom_headers import Header, is_localizer
from .slice_positions import GAP_TOLERANCE, ROUNDING_MM

MAX_GAP = 3.0  # of the distance of the slices, which leaves room for one or two that are missing, as the reader then reports
SAME_POSITION = 0.1  # of the distance of the slices
SAME_DIRECTION = 1e-3  # largest difference of the elements of ImageOrientationPatient
SAME_LINE_MM = 1.0  # largest distance in plane
# Tags that an anonymiser changes per patient although it may write one SeriesInstanceUID into every file.
IDENTITY = ("SeriesInstanceUID", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Rows", "Columns")
SERIES, STUDY, FRAME = (IDENTITY.index(tag) for tag in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"))
Key = tuple[str | float, ...]  # values of IDENTITY, then rounded ImageOrientationPatient and PixelSpacing


@dataclass(frozen=True)
class Part:
    """Slices of one folder, copies left out: orientation (6,), positions (N, 3) in mm, SOPInstanceUIDs and InstanceNumbers (N,)."""

    key: Key
    orientation: NDArray[np.float64]
    positions: NDArray[np.float64]
    uids: tuple[str, ...]
    numbers: tuple[int, ...] | None

    @property
    def along(self) -> NDArray[np.float64]:
        """Positions along the normal (N,)."""
        return self.positions @ np.cross(self.orientation[:3], self.orientation[3:])


def key_of(header: Header) -> Key:
    """Values that the slices of one series share; absent ones of the identity are ""."""
    values = np.asarray([*header.ImageOrientationPatient, *header.PixelSpacing], np.float64)
    return (*(str(header.get(tag, "") or "") for tag in IDENTITY), *(round(float(v), 2) for v in values))


def part_of(headers: Iterable[tuple[Path, Header]]) -> Part:
    """Slices of a folder.

    Raises:
        ValueError: for slices of several series.
        AttributeError: for a slice without position or orientation.
    """
    slices = [h for _, h in headers if not is_localizer(h)]
    unique = {(str(h.get("SOPInstanceUID", "")), *np.round(np.asarray(h.ImagePositionPatient, float), 3)): h for h in slices}
    keys = [key_of(h) for h in unique.values()]
    if len({key[: len(IDENTITY)] for key in keys}) > 1:
        raise ValueError("slices of several series")
    numbers = [h.get("InstanceNumber") for h in unique.values()]
    return Part(
        keys[0],
        np.asarray(slices[0].ImageOrientationPatient, np.float64),
        np.asarray([h.ImagePositionPatient for h in unique.values()], np.float64),
        tuple(str(uid) for uid, *_ in unique),
        None if any(n in (None, "") for n in numbers) else tuple(int(str(n)) for n in numbers),
    )


def _beside_line(positions: NDArray[np.float64], along: NDArray[np.float64], step: float) -> bool:
    """True for positions (N, 3) in order that leave their line, which a tilted gantry may incline by up to 45 degrees."""
    line, length = positions[-1] - positions[0], along[-1] - along[0]
    beside = positions - positions[0] - ((along - along[0]) / length)[:, None] * line
    tilt = float(np.sqrt(max(line @ line - length**2, 0.0)) / length)
    return bool(np.linalg.norm(beside, axis=1).max() > SAME_LINE_MM + step * tilt or tilt > 1.0)


def obstacle(parts: Sequence[Part]) -> str:
    """Reason why folders of one key are not joined; "" where their slices are one series without doubt.

    InstanceNumber must follow the position in even steps, so that neither two phases nor two patients with one UID are joined,
    whose numbers repeat or begin again. Without these numbers the folders must be of one frame of reference and not overlap.
    """
    first = parts[0]
    if not first.key[STUDY] and not first.key[FRAME]:
        return "without StudyInstanceUID and FrameOfReferenceUID they may be of several patients"
    if any(len(set(p.uids)) < len(p.uids) or "" in p.uids for p in parts):
        return "SOPInstanceUIDs repeat or are missing"
    if any(np.abs(p.orientation - first.orientation).max() > SAME_DIRECTION for p in parts):
        return "their slices are not parallel"
    numbers = [p.numbers or () for p in parts]
    numbered = all(numbers)
    if not numbered and not first.key[FRAME]:
        return "without InstanceNumber and FrameOfReferenceUID they may be of several acquisitions"
    # Copies of a slice in several folders count once.
    rows = {
        (uid, *np.round(position, 3)): (height, number, owner, *position)
        for owner, part in reversed(list(enumerate(parts)))
        for uid, position, height, number in zip(
            part.uids, part.positions, part.along, part.numbers if numbered and part.numbers else part.along, strict=True
        )
    }
    table = np.asarray(sorted(rows.values()))
    along, owners, positions = table[:, 0], table[:, 2], table[:, 3:]
    jumps = np.diff(table[:, 1]) if numbered else np.ones(len(table) - 1)
    if not len(jumps) or not (np.all(jumps > 0) or np.all(jumps < 0)):
        return "InstanceNumber is not in the order of the slices, as in two phases or two patients"
    if not numbered and np.count_nonzero(np.diff(owners)) >= len(set(owners)):
        return "they overlap, and without InstanceNumber may be of several acquisitions"
    jumps = np.abs(jumps)
    steps = np.diff(along) / jumps
    step = float(np.median(steps))
    tolerance = max(GAP_TOLERANCE * step, min(ROUNDING_MM, 0.3 * step))
    if step < 1e-3 or np.abs(steps - step).max() > tolerance or jumps.max() > MAX_GAP * np.median(jumps):
        return "their slices do not follow each other in even steps"
    return "their slices are not on one line" if _beside_line(positions, along, step) else ""


def grouped(parts: dict[str, Part]) -> list[list[str]]:
    """Folders of one key in groups that are one series each."""
    names = sorted(parts)
    if len(names) < 2 or not obstacle([parts[n] for n in names]):
        return [names] if names else []
    if any(p.numbers is None for p in parts.values()):  # then the order of the folders is not unique
        return [[n] for n in names]
    groups: list[list[str]] = []
    for name in sorted(names, key=lambda n: min(parts[n].numbers or (0,))):
        if groups and not obstacle([parts[n] for n in (*groups[-1], name)]):
            groups[-1].append(name)
        else:
            groups.append([name])
    return [sorted(group) for group in groups]


def collide(one: Part, other: Part) -> bool:
    """True where two parts, numbered as one series, differ in some, not all, slices at one position.

    Folders with equal positions throughout are whole scans of their own, such as two phases.
    """
    a, b = np.sort(one.along), np.sort(other.along)
    step = float(np.median(np.diff(a))) if len(a) > 1 else 0.0
    if step <= 0 or not one.key[FRAME]:  # without a frame of reference, equal numbers need not be one place
        return False
    if not one.numbers or not other.numbers or set(one.numbers) & set(other.numbers):  # two scans, perhaps of two patients
        return False
    same = np.abs(a[:, None] - b[None, :]).min(axis=1) < SAME_POSITION * step
    return bool(same.any() and not (same.all() and len(a) == len(b)) and not set(one.uids) & set(other.uids))
