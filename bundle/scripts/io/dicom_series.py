# SPDX-License-Identifier: Apache-2.0
"""Files of a DICOM CT series: found, checked and ordered by position, before any pixel is decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dicom_headers import REQUIRED_TAGS, Header, is_localizer, read_headers
from .dicom_multiframe import frame_headers, is_multiframe
from .geometry_rules import DEFAULT_RULES, GeometryRules
from .slice_positions import arrange_slices
from .split_series import counted, part_folders
from .straight_grid import StraightGrid

UNIT_TOLERANCE = 1e-2  # of the dot products of rows and columns
COVERED = 0.9  # of the height of reformats, by the axial series that is used in their place
PADDED = 0.5  # the same, for an axial series of more slices than the reformat


@dataclass(frozen=True)
class DicomSeries:
    """A CT series of checked geometry whose pixels are not decoded yet.

    Attributes:
        folder: folder of the files, or the first or common one of several.
        files: slices in order of their position.
        headers: headers of these files, without pixels.
        shape: columns, rows, slices.
        affine: voxel to world (R, A, S, mm).
        notes: skipped files and resampling, one line each.
        multiframe: the only file, where it is an enhanced CT; ``files`` repeats it for every frame.
        straight: grid of ``shape`` and ``affine`` where it is not that of the files, which are interpolated onto it.
    """

    folder: str
    files: list[Path]
    headers: list[Header]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    notes: list[str]
    straight: StraightGrid | None = None
    multiframe: Path | None = None


def _numbers(file: Path, header: Header, tag: str, count: int) -> NDArray[np.float64]:
    """Values of a tag (count,), finite."""
    value = header.get(tag)
    try:
        numbers = np.atleast_1d(np.array(value, np.float64))
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        many = "one finite number" if count == 1 else f"{count} finite numbers"
        raise ValueError(f"{file}: {tag} is {value!s}; must be {many}, so export the series again")
    return numbers


def _check_geometry(file: Path, header: Header) -> None:
    """Refuse a slice whose numbers of geometry or scaling are incomplete, not finite or impossible.

    Raises:
        ValueError: one line with file, tag, value and remedy.
    """
    counts = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "RescaleSlope": 1, "RescaleIntercept": 1}
    values = {tag: _numbers(file, header, tag, count) for tag, count in counts.items()}
    values |= {tag: _numbers(file, header, tag, 1) for tag in ("Rows", "Columns")}
    for tag in ("PixelSpacing", "Rows", "Columns"):
        if values[tag].min() <= 0:
            raise ValueError(f"{file}: {tag} is {header.get(tag)}; must be above 0, so export the series again")
    if values["RescaleSlope"][0] == 0:
        raise ValueError(f"{file}: RescaleSlope is 0, which erases every value; export the series again")
    axes = values["ImageOrientationPatient"].reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > UNIT_TOLERANCE:
        shown = [round(float(v), 4) for v in axes.ravel()]
        raise ValueError(f"{file}: ImageOrientationPatient is {shown}; must be two unit vectors at a right angle, so export again")


def check_ct_slice(file: Path, header: Header) -> None:
    """Refuse everything but a single-frame CT slice in HU.

    Raises:
        ValueError: one line with file, value and remedy.
    """
    modality = str(header.get("Modality", "")) or "none"
    if modality != "CT":
        raise ValueError(f"{file}: Modality is {modality}; must be CT, as the networks are of CT in HU, so choose the CT series")
    if is_multiframe(header):
        raise ValueError(f"{file}: has several frames, beside other files of the series; put it into a folder of its own")
    photometric = str(header.get("PhotometricInterpretation", "")) or "none"
    if photometric != "MONOCHROME2":
        raise ValueError(f"{file}: PhotometricInterpretation is {photometric}; must be MONOCHROME2, so export the series again")
    missing = [tag for tag in REQUIRED_TAGS if header.get(tag) in (None, "")]
    if missing:
        raise ValueError(
            f"{file}: lacks {', '.join(missing)}, without which HU and position are undefined; export the series again"
        )
    _check_geometry(file, header)


def _plane(items: list[tuple[Path, Header]]) -> str:
    """Plane of the slices of a series, "" where they have several or none."""
    try:
        axes = np.array([h.ImageOrientationPatient for _, h in items], np.float64).reshape(-1, 2, 3)
    except (AttributeError, TypeError, ValueError):
        return ""
    planes = set(np.abs(np.cross(axes[:, 0], axes[:, 1])).argmax(axis=1).tolist())
    return ("sagittal", "coronal", "axial")[planes.pop()] if len(planes) == 1 else ""


def _heights(items: list[tuple[Path, Header]]) -> tuple[float, float]:
    """Lowest and highest z of the corners of the slices of a series, mm."""
    z = []
    for _, h in items:
        row, column = np.array(h.ImageOrientationPatient, np.float64).reshape(2, 3)[:, 2]
        across, down = row * (h.Columns - 1) * float(h.PixelSpacing[1]), column * (h.Rows - 1) * float(h.PixelSpacing[0])
        z += [float(h.ImagePositionPatient[2]) + shift for shift in (0.0, across, down, across + down)]
    return min(z), max(z)


def _only_axial(by_series: dict[str, list[tuple[Path, Header]]]) -> str | None:
    """UID of the only axial series of a folder whose other series are reformats of other planes; None where that is unclear.

    It must be of CT and show the height of the others, else it may be a small block of a scan. Reformats may be padded, so half of
    their height is enough for a series of more slices.
    """
    planes = {uid: _plane(items) for uid, items in by_series.items()}
    axial = [uid for uid, plane in planes.items() if plane == "axial" and len(by_series[uid]) > 1]
    if len(axial) != 1 or any(p not in ("sagittal", "coronal") for u, p in planes.items() if u != axial[0]):
        return None
    kept = by_series[axial[0]]
    if any(str(h.get("Modality", "")) != "CT" for _, h in kept):
        return None
    try:
        low, high = _heights(kept)
        others = [(len(items), *_heights(items)) for uid, items in by_series.items() if uid != axial[0]]
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    for number, bottom, top in others:
        needed = PADDED if len(kept) > number else COVERED
        if min(high, top) - max(low, bottom) < needed * (top - bottom):
            return None
    return axial[0]


def _select_series(folder: Path, headers: list[tuple[Path, Header]], notes: list[str]) -> list[tuple[Path, Header]]:
    """Slices of the only series, without localizers and copies."""
    slices = [(f, h) for f, h in headers if not is_localizer(h)]
    if not slices:
        raise ValueError(f"{folder}: contains only localizers; expected the folder of the axial series")
    if len(slices) < len(headers):
        notes.append(f"{folder}: {len(headers) - len(slices)} localizer(s) skipped")
    for file, header in slices:
        if "SeriesInstanceUID" not in header and "Rows" not in header:
            raise ValueError(
                f"{file}: its DICOM header has no SeriesInstanceUID and no Rows, perhaps cut off; copy the series again"
            )
    by_series: dict[str, list[tuple[Path, Header]]] = defaultdict(list)
    for file, header in slices:
        by_series[str(header.get("SeriesInstanceUID", ""))].append((file, header))
    if len(by_series) > 1 and (kept := _only_axial(by_series)) is not None:
        others = ", ".join(f"{uid} ({len(i)} files, {_plane(i) or 'single'})" for uid, i in by_series.items() if uid != kept)
        notes.append(f"{folder}: the axial series {kept} ({len(by_series[kept])} files) is used; not used: {others}")
        slices = by_series[kept]
    elif len(by_series) > 1:
        counts = ", ".join(f"{uid} ({len(items)} files)" for uid, items in by_series.items())
        raise ValueError(f"{folder}: contains {len(by_series)} series: {counts}; put each series into its own folder")
    unique: dict[tuple[str, str, str], tuple[Path, Header]] = {}
    frames = len({file for file, _ in slices}) < len(slices)  # of one file and UID; two at one position are two phases
    for file, header in slices:
        # Anonymisation may write one UID into every slice, so a copy must share the position, too.
        number = str(header.InstanceNumber) if frames else ""
        key = (str(header.get("SOPInstanceUID", file)), str(header.get("ImagePositionPatient", file)), number)
        unique.setdefault(key, (file, header))
    if len(unique) < len(slices):
        notes.append(f"{folder}: {len(slices) - len(unique)} file(s) repeat a slice under another name; skipped")
    return list(unique.values())


def _check_parallel(items: list[tuple[Path, Header]]) -> None:
    """Refuse slices that differ in size, orientation or pixel spacing."""
    first = items[0][1]
    orientation = np.array(first.ImageOrientationPatient, np.float64)
    for file, header in items:
        if (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise ValueError(
                f"{file}: has {header.Rows} x {header.Columns} pixels, others {first.Rows} x {first.Columns}; "
                "export slices of one size"
            )
        if np.abs(np.array(header.ImageOrientationPatient, np.float64) - orientation).max() > 1e-3:
            raise ValueError(f"{file}: is not parallel to the other slices; expected a series of parallel slices")
        if not np.allclose(np.array(header.PixelSpacing, float), np.array(first.PixelSpacing, float), rtol=1e-3):
            raise ValueError(
                f"{file}: PixelSpacing is {list(header.PixelSpacing)} mm, of others {list(first.PixelSpacing)} mm; "
                "export slices of one spacing"
            )


def _arrange(
    folder: Path, items: list[tuple[Path, Header]], rules: GeometryRules
) -> tuple[list[tuple[Path, Header]], NDArray[np.float64], StraightGrid | None, list[str]]:
    """Slices in order of their position, the affine, the grid that they are resampled to where they are irregular, and notes."""
    first = items[0][1]
    orientation = np.array(first.ImageOrientationPatient, np.float64)
    positions = np.array([[float(v) for v in h.ImagePositionPatient] for _, h in items])
    several = len({f.parent for f, _ in items}) > 1  # files of several folders may have one name
    names = [f"{f.parent.name}/{f.name}" if several else f.name for f, _ in items]
    if len({f for f, _ in items}) < len(items):
        names = [f"frame {h.InstanceNumber}" for _, h in items]
    found = arrange_slices(positions, orientation, names, str(folder), rules.position_tolerance_mm)
    spacing = (float(first.PixelSpacing[1]), float(first.PixelSpacing[0]))  # of columns, of rows
    grid, corner = None, np.zeros(3)
    if found.notes:
        grid = StraightGrid.plan((int(first.Columns), int(first.Rows)), spacing, found.offsets, found.distance)
        corner = grid.first
    axes = orientation.reshape(2, 3)
    frame = np.vstack([axes, np.cross(*axes)]).T  # columns: directions of columns, rows, slices (L, P, S)
    affine = np.eye(4)
    affine[:3, :3] = frame * [*spacing, found.distance]
    affine[:3, 3] = positions[found.order[0]] + frame @ corner
    notes = [f"{folder}: {' and '.join(found.notes)}; resampled to a straight grid, {found.distance:.2f} mm"] if grid else []
    return [items[i] for i in found.order], np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, grid, notes


def _read_folders(root: Path, parts: Sequence[str | Path], notes: list[str]) -> list[tuple[Path, Header]]:
    """Headers of a folder, or of the folders that hold one series together."""
    folders = [root, *map(Path, parts)] if parts else part_folders(root)
    if not folders:
        return read_headers(root, notes)
    found = [item for folder in folders for item in read_headers(folder, notes)]
    notes.append(f"{root}: {len(folders)} folders of one series are read as one scan: {counted(folders, [f for f, _ in found])}")
    return found


def find_series(folder: str | Path, rules: GeometryRules = DEFAULT_RULES, parts: Sequence[str | Path] = ()) -> DicomSeries:
    """Find the CT series in a folder, single slices or one enhanced CT; slices are ordered by position, never by name.

    Args:
        folder: folder that holds one series, or the folders of its parts and nothing else; its localizers are left out.
        rules: tolerance of the positions.
        parts: folders with the other slices of the series, as of ``find_split_series``.

    Raises:
        ValueError: one line; several series, another modality, repeated or missing slices, positions off one line, missing tags.
    """
    root, notes = Path(folder), []  # type: tuple[Path, list[str]]
    found = _read_folders(root, parts, notes)
    multiframe = [f for f, h in found if is_multiframe(h)]
    if len(multiframe) == 1 and len(found) == 1:
        found = [(multiframe[0], header) for header in frame_headers(multiframe[0])]
    items = _select_series(root, found, notes)
    for file, header in items:
        check_ct_slice(file, header)
    if len(items) < 2:
        raise ValueError(f"{root}: contains a single slice; expected a series of at least two")
    _check_parallel(items)
    items, affine, grid, resampled = _arrange(root, items, rules)
    files, headers = [f for f, _ in items], [h for _, h in items]
    shape = grid.shape if grid else (int(headers[0].Columns), int(headers[0].Rows), len(files))
    return DicomSeries(str(root), files, headers, shape, affine, notes + resampled, grid, multiframe[0] if multiframe else None)
