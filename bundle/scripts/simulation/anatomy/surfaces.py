# SPDX-License-Identifier: Apache-2.0
"""Vertebrae of persons from a folder of surfaces (STL, OBJ) or label maps, as signed distance maps in mm."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from scipy import ndimage

from ...core.errors import InputError, first_line
from ...core.vertebrae import LABELS, LEVELS
from ...io.label_maps import read_label_map
from ..fracture.sampling import whole_vertebrae
from .mesh_files import SUFFIXES, read_mesh
from .voxels import (
    FACETED_EDGE_MM,
    MARGIN_MM,
    SMOOTH_FACETED_MM,
    SMOOTH_MM,
    STEP_MM,
    DistanceMap,
    distance_map,
    mean_edge,
    voxelise,
)

SURFACE_LEVELS = (*(f"T{n}" for n in range(1, 13)), *(f"L{n}" for n in range(1, 6)), "S1")
NAME = re.compile(r"(?<![a-z])(t|th|thoracic|thoracal|l|lumbar|s|sacral)[ _-]*0?(\d{1,2})(?!\d)", re.IGNORECASE)
SACRUM = re.compile(r"sacrum", re.IGNORECASE)
EXTENT_MM = (25.0, 260.0)  # greatest extent of a vertebra, or of a sacrum with coccyx
LABEL_MAPS = (".nii", ".nii.gz", ".nrrd", ".mha")
MIN_VOXELS_MM3 = 3000.0  # of a vertebra in a label map; less is a part of one


def level_of(name: str) -> str | None:
    """Level, T1 to L5 or S1, in the name of a file such as ``L3_left.obj``, ``thoracic12.stl`` or ``sacrum.stl``, or None.

    Raises:
        InputError: for several levels, such as a code of the subject beside the level.
    """
    if SACRUM.search(name):
        return "S1"
    found = [f"{region[0].upper()}{int(number)}" for region, number in NAME.findall(name)]
    levels = [level for level in dict.fromkeys(found) if level in SURFACE_LEVELS]
    if len(levels) > 1:
        raise InputError(f"{name}: its name has several levels, {' and '.join(levels)}; keep that of the vertebra alone")
    return levels[0] if levels else None


def unit_mm(triangles: NDArray[np.float64], path: Path) -> float:
    """Length of the unit of a mesh in mm, 1 or 1000, by the extent of its surface.

    Raises:
        InputError: when the surface is no vertebra in either unit.
    """
    extent = float(np.ptp(triangles.reshape(-1, 3), axis=0).max())
    for unit in (1.0, 1000.0):
        if EXTENT_MM[0] <= extent * unit <= EXTENT_MM[1]:
            return unit
    low, high = EXTENT_MM
    raise InputError(f"{path}: its extent is {extent:.4g}; must be {low:g} to {high:g} mm, or the same in metres; scale the mesh")


def _from_mesh(path: Path) -> DistanceMap:
    triangles = read_mesh(path)
    triangles = triangles * unit_mm(triangles, path)
    mask, origin = voxelise(triangles)
    if not mask.any():
        raise InputError(f"{path}: the surface has no inside; it must be closed")
    faceted = mean_edge(triangles) > FACETED_EDGE_MM
    return distance_map(mask, origin, SMOOTH_FACETED_MM if faceted else SMOOTH_MM, faceted)


def _from_label_map(path: Path) -> dict[str, DistanceMap]:
    try:
        image = nib.as_closest_canonical(read_label_map(path))
    except (OSError, ValueError, ImageFileError) as error:
        raise InputError(f"{path}: is no label map ({first_line(error)}); must contain VerSe's labels") from None
    labels, spacing = np.asarray(image.dataobj).astype(np.uint8), np.array(image.header.get_zooms()[:3], float)
    maps, whole = {}, whole_vertebrae(labels)
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        level = LEVELS.get(value)
        if box is None or level not in SURFACE_LEVELS:
            continue
        part = np.pad(labels[box] == value, 1)
        if value not in whole and level != "S1":  # the sacrum is used to its lower end at most
            print(f"{path}: {level} is cut by the border and left out", file=sys.stderr)
            continue
        if part.sum() * spacing.prod() < MIN_VOXELS_MM3:
            continue
        # From the smoothed mask, whose steps would else be those of its voxels.
        smooth = ndimage.gaussian_filter(part.astype(np.float32), 0.5)
        low = spacing * [s.start - 1 for s in box] + image.affine[:3, 3] - MARGIN_MM
        shape = np.ceil((np.array(part.shape) * spacing + 2 * MARGIN_MM) / STEP_MM).astype(int)
        index = [(np.arange(n) * STEP_MM - MARGIN_MM) / z for n, z in zip(shape, spacing, strict=True)]
        fine = ndimage.map_coordinates(smooth, np.meshgrid(*index, indexing="ij"), order=1) > 0.5
        maps[level] = distance_map(fine, low, max(SMOOTH_MM, 0.75 * float(spacing.max())))
    return maps


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and f.name.lower().endswith((*SUFFIXES, *LABEL_MAPS)))


def person_folders(folder: str | Path) -> list[Path]:
    """Folders with surfaces, one person each: the folder or those below it.

    Raises:
        InputError: when there is none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; must contain surfaces of vertebrae, one folder per person")
    found = [f for f in (root, *sorted(p for p in root.rglob("*") if p.is_dir())) if _files(f)]
    if not found:
        raise InputError(f"{root}: contains no surfaces; must contain STL, OBJ or label maps, one folder per person")
    return found


def read_person(folder: Path) -> dict[str, DistanceMap]:
    """Signed distance maps of the vertebrae of one person by level.

    Surfaces have their level in the name; others are left out. Label maps in VerSe's labels add the levels that have no surface.

    Raises:
        InputError: for a file that cannot be used, two of one level, and a folder without any level.
    """
    files = _files(folder)
    sources: dict[str, Path] = {}
    for path in files:
        level = level_of(path.name) if path.suffix.lower() in SUFFIXES else None
        if level is not None and level in sources:
            raise InputError(f"{path}: is {level} as {sources[level].name} is; keep one of them")
        if level is not None:
            sources[level] = path
    maps = {level: _from_mesh(path) for level, path in sources.items()}
    of_map: dict[str, Path] = {}
    label_maps = [path for path in files if path.suffix.lower() not in SUFFIXES]
    for path in label_maps:
        for level, surface in _from_label_map(path).items():
            if level in of_map:
                raise InputError(f"{path}: has {level} as {of_map[level].name} has; put every person into a folder of its own")
            of_map[level] = path
            maps.setdefault(level, surface)
    if not sources and label_maps and not set(maps) - {"S1"}:
        raise InputError(f"{label_maps[0]}: shows no vertebra from T1 to L5 that the border does not cut, in VerSe's labels")
    if not set(maps) - {"S1"}:
        raise InputError(f"{files[0]}: its name has no level; must be such as L3.stl or thoracic12.obj, T1 to L5")
    return dict(sorted(maps.items(), key=lambda item: LABELS[item[0]]))


def folder_hash(folder: str | Path) -> str:
    """SHA-256 of the surfaces below a folder, by name relative to it and content."""
    root, digest = Path(folder), hashlib.sha256()
    for person in person_folders(root):
        for path in _files(person):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
