# SPDX-License-Identifier: Apache-2.0
"""Files of voxels that a header names are those that its reader takes them from."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.io.detached_voxels import voxel_files

VOLUME = np.random.default_rng(0).integers(-900, 900, (4, 3, 2)).astype(np.int16)


def write_mhd(folder, element_data_file, name="ct.mhd"):
    """Header of ``VOLUME`` whose voxels lie in the files that ``element_data_file`` names."""
    lines = [
        "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False", "CompressedData = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 1 1 2", "DimSize = 2 3 4",
        "ElementType = MET_SHORT", f"ElementDataFile = {element_data_file}", "",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines), encoding="ascii")
    return folder / name


def write_nhdr(folder, data_file, name="ct.nhdr", key="data file"):
    lines = [
        "NRRD0005", "# data file: no.raw", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 2 3 4",
        "space directions: (1,0,0) (0,1,0) (0,0,2)", "kinds: domain domain domain", "endian: little", "encoding: raw",
        "space origin: (0,0,0)", f"{key}: {data_file}",
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="ascii")
    return folder / name


def slices(folder, names):
    for name, plane in zip(names, np.array_split(VOLUME, len(names)), strict=True):
        (folder / name).write_bytes(plane.tobytes())
    return [folder / name for name in names]


NUMBERED = ["s1.raw", "s2.raw", "s3.raw", "s4.raw"]


@pytest.mark.parametrize(
    ("write", "value", "names"),
    [
        (write_mhd, "ct.raw", ["ct.raw"]),
        (write_mhd, "a voxel file.raw", ["a voxel file.raw"]),
        (write_mhd, "s%d.raw 1 4 1", NUMBERED),
        (write_mhd, "LIST\n" + "\n".join(NUMBERED), NUMBERED),
        (write_nhdr, "ct.raw", ["ct.raw"]),
        (write_nhdr, "s%d.raw 1 4 1", NUMBERED),
        (write_nhdr, "s%d.raw 1 4 1 2", NUMBERED),
        (write_nhdr, "LIST\n" + "\n".join(NUMBERED), NUMBERED),
    ],
)
def test_the_reader_reads_these_files_and_needs_each(tmp_path, write, value, names):
    itk = pytest.importorskip("itk")
    header = write(tmp_path, value)
    files = slices(tmp_path, names)
    assert voxel_files(header) == files
    np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(header))), VOLUME)
    files[-1].unlink()
    assert voxel_files(header) == files[:-1]
    with pytest.raises(RuntimeError):
        itk.imread(str(header))


def test_a_name_in_another_folder_and_the_short_key(tmp_path):
    (tmp_path / "raw").mkdir()
    (file,) = slices(tmp_path / "raw", ["x.raw"])
    assert [f.resolve() for f in voxel_files(write_nhdr(tmp_path / "h", "../raw/x.raw", key="datafile"))] == [file]
    assert voxel_files(write_mhd(tmp_path / "h", str(file))) == [file]


@pytest.mark.parametrize(
    "value", ["LOCAL", "", "nothing.raw", "LIST", "%d%s.raw 1 4 1", "s%d.raw 1 999999999999 1", "s%d.raw 4 1 -1"]
)
@pytest.mark.parametrize(("write", "name"), [(write_mhd, "a.mha"), (write_mhd, "a.mhd"), (write_nhdr, "a.nhdr")])
def test_values_that_name_no_file_are_no_error(tmp_path, write, name, value):
    assert voxel_files(write(tmp_path, value, name)) == []


def test_voxels_in_the_file_itself_are_not_searched(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"x")
    header = b"NRRD0005\ntype: short\n\n"
    (tmp_path / "a.nrrd").write_bytes(header + b"data file: a.raw\n")
    (tmp_path / "b.nhdr").write_bytes(b"\xff\x00binary")
    (tmp_path / "c.mhd").mkdir()
    assert [voxel_files(tmp_path / n) for n in ("a.nrrd", "b.nhdr", "c.mhd", "none.mhd", "a.raw")] == [[]] * 5
