# SPDX-License-Identifier: Apache-2.0
"""Surfaces of vertebrae made in code, in the frame right, front, up and mm, and their files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from scripts.simulation.phantom.vertebra import Grid, Pose, vertebra_distance
from skimage.measure import marching_cubes

# Axes of a file: its x is front, its y up and its z right, as in models of movement.
FRONT_UP_RIGHT = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


@lru_cache(maxsize=16)
def vertebra_triangles(level: str, step: float = 2.0) -> np.ndarray:
    """Triangles (N, 3, 3) of a vertebra of the phantom, centred in its body."""
    spacing = np.full(3, step)
    shape = tuple(int(n) for n in np.array([140, 150, 150]) / step)
    grid = Grid(np.array([-70.0, -100.0, -85.0]), spacing, shape)
    field = vertebra_distance(grid, Pose(np.zeros(3)), level)
    volume = np.full(shape, 20.0, np.float32)
    volume[field.region] = field.distance
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(step,) * 3)
    return (vertices + grid.origin)[faces].astype(float)


def write_stl(path: Path, triangles: np.ndarray) -> Path:
    """Write triangles (N, 3, 3) as binary STL."""
    facet = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attribute", "<u2")])
    records = np.zeros(len(triangles), facet)
    records["vertices"] = triangles
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(80) + np.array([len(triangles)], "<u4").tobytes() + records.tobytes())
    return path


def write_text_stl(path: Path, triangles: np.ndarray) -> Path:
    """Write triangles (N, 3, 3) as text STL."""
    lines = ["solid vertebra"]
    for corners in triangles:
        lines += [
            "facet normal 0 0 0",
            "outer loop",
            *(f"vertex {x:.6f} {y:.6f} {z:.6f}" for x, y, z in corners),
            "endloop",
            "endfacet",
        ]
    path.write_text("\n".join([*lines, "endsolid"]))
    return path


def write_obj(path: Path, triangles: np.ndarray) -> Path:
    """Write triangles (N, 3, 3) as OBJ with normals, whose faces count some vertices from the end."""
    corners = triangles.reshape(-1, 3)
    lines = ["# a vertebra", *(f"v {x:.7f} {y:.7f} {z:.7f}" for x, y, z in corners), "vn 0 0 1", "g body"]
    for k in range(0, len(corners), 3):
        names = [k + 1, k + 2, k + 3] if k % 2 else [k - len(corners) + n for n in range(3)]
        lines.append("f " + " ".join(f"{n}//1" for n in names))
    path.write_text("\n".join(lines))
    return path


def write_person(folder: Path, levels: tuple[str, ...], axes: np.ndarray | None = None, unit: float = 1.0) -> Path:
    """Write vertebrae of one person as STL.

    Args:
        folder: folder to write to.
        levels: levels.
        axes: (3, 3) matrix from (right, front, up) to the axes of the file; the same when None.
        unit: length of a mm in units of the file.
    """
    for level in levels:
        write_stl(folder / f"{level}.stl", vertebra_triangles(level) @ (np.eye(3) if axes is None else axes).T * unit)
    return folder
