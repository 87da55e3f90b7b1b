# SPDX-License-Identifier: Apache-2.0
"""Triangles of a closed surface from an STL or OBJ file.

ITK, which is a dependency, reads OBJ but no STL; both formats are a few lines.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError

SUFFIXES = (".stl", ".obj")
HEADER_BYTES, FACET_BYTES = 84, 50  # of binary STL
MAX_OPEN_FRACTION = 0.02  # of the edges, of a surface that still has an inside
MERGE_FRACTION = 1e-5  # of the extent, within which vertices of different facets are one


def _binary_stl(content: bytes) -> NDArray[np.float64] | None:
    """Triangles (N, 3, 3) of a binary STL, or None where the length does not fit."""
    if len(content) < HEADER_BYTES:
        return None
    count = int(np.frombuffer(content, "<u4", 1, 80)[0])
    if len(content) != HEADER_BYTES + FACET_BYTES * count:
        return None
    facet = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attribute", "<u2")])
    return np.frombuffer(content, facet, count, HEADER_BYTES)["vertices"].astype(float)


def _text_stl(text: str) -> NDArray[np.float64]:
    """Triangles (N, 3, 3) of a text STL."""
    vertices = [[float(v) for v in line.split()[1:4]] for line in text.splitlines() if line.strip().startswith("vertex")]
    return np.array(vertices, float).reshape(-1, 3, 3)


def _obj(text: str) -> NDArray[np.float64]:
    """Triangles (N, 3, 3) of an OBJ; polygons become fans, and texture, normals and groups are left out."""
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(v) for v in words[1:4]])
        elif words[:1] == ["f"]:
            # Negative indices count from the last vertex.
            corners = [n - 1 if n > 0 else len(vertices) + n for n in (int(w.split("/")[0]) for w in words[1:])]
            faces += [(corners[0], b, c) for b, c in pairwise(corners[1:])]
    return np.array(vertices, float).reshape(-1, 3)[np.array(faces, int).reshape(-1, 3)]


def open_edges(triangles: NDArray[np.float64]) -> float:
    """Fraction of the edges that only one triangle has; 0 for a closed surface."""
    points = triangles.reshape(-1, 3)
    tolerance = max(float(np.ptp(points, axis=0).max()) * MERGE_FRACTION, 1e-12)
    _, index = np.unique(np.round(points / tolerance).astype(np.int64), axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges = edges[edges[:, 0] != edges[:, 1]]
    _, counts = np.unique(edges, axis=0, return_counts=True)
    return float(np.mean(counts == 1)) if len(counts) else 1.0


def read_mesh(path: Path) -> NDArray[np.float64]:
    """Read the triangles (N, 3, 3) of a closed surface, in the units of the file.

    Raises:
        InputError: for a file that is no mesh, and for an open surface.
    """
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".obj":
            triangles = _obj(content.decode("latin-1"))
        else:
            binary = _binary_stl(content)
            triangles = binary if binary is not None else _text_stl(content.decode("latin-1"))
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: is no mesh ({error}); must be STL or OBJ") from None
    if not len(triangles) or not np.isfinite(triangles).all():
        raise InputError(f"{path}: contains no triangles, or infinite ones; must be a surface in STL or OBJ")
    fraction = open_edges(triangles)
    if fraction > MAX_OPEN_FRACTION:
        raise InputError(f"{path}: {fraction:.0%} of the edges are open, the surface has no inside; close its holes")
    return triangles
