# SPDX-License-Identifier: Apache-2.0
"""Mesh files: the same triangles from every format, and one line for what is no closed surface."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.simulation.anatomy.mesh_files import open_edges, read_mesh
from surface_files import vertebra_triangles, write_obj, write_stl, write_text_stl


@pytest.mark.parametrize(("write", "name"), [(write_stl, "L1.stl"), (write_text_stl, "L1.STL"), (write_obj, "L1.obj")])
def test_every_format_has_the_same_triangles(tmp_path, write, name):
    triangles = vertebra_triangles("L1", 4.0)
    np.testing.assert_allclose(read_mesh(write(tmp_path / name, triangles)), triangles, atol=1e-4)


def test_polygons_of_an_obj_are_fans(tmp_path):
    corners = [f"v {x} {y} {z}" for x in (0, 30) for y in (0, 30) for z in (0, 30)]
    faces = ["f 1 2 4 3", "f 5 7 8 6", "f 1 5 6 2", "f 3 4 8 7", "f 1 3 7 5", "f 2 6 8 4"]
    path = tmp_path / "L1.obj"
    path.write_text("\n".join(corners + faces))
    triangles = read_mesh(path)
    assert len(triangles) == 12
    assert open_edges(triangles) == 0
    volume = np.einsum("ij,ij->i", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2])).sum() / 6
    assert abs(volume) == pytest.approx(30**3)


def test_a_surface_with_a_large_hole_is_refused(tmp_path):
    triangles = vertebra_triangles("L1", 4.0)
    nearly = triangles[3:]
    assert len(read_mesh(write_stl(tmp_path / "nearly.stl", nearly))) == len(nearly)
    half = triangles[triangles.mean(axis=1)[:, 2].argsort()[: len(triangles) // 2]]
    scattered = triangles[::2]
    assert 0 < open_edges(half) < open_edges(scattered)
    with pytest.raises(InputError, match=r"open\.stl: .*close its holes"):
        read_mesh(write_stl(tmp_path / "open.stl", scattered))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.stl", b"no mesh at all"),
        ("empty.stl", b""),
        ("cut.stl", bytes(80) + (99).to_bytes(4, "little") + bytes(120)),
        ("index.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 7\n"),
        ("letters.obj", b"v a b c\nf 1 1 1\n"),
        ("nan.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"),
        ("uneven.stl", b"solid\nvertex 0 0 0\nvertex 1 1 1\nendsolid"),
    ],
)
def test_a_file_that_is_no_mesh_is_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: ") as error:
        read_mesh(path)
    assert "\n" not in str(error.value)
