# SPDX-License-Identifier: Apache-2.0
"""Geometry that a file does not declare is refused or assumed with a note; its units are honoured."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from fakes import affine_of, ball_scan, save
from scripts.io.formats import read_volume
from scripts.io.geometry_rules import GeometryRules
from scripts.io.image_checks import inspect_case
from scripts.io.nifti_writer import open_slice_writer
from scripts.io.scan_header import read_header

SHAPE, SPACING = (20, 24, 28), np.array([2.0, 2.0, 3.0])
RULES = GeometryRules(assume_orientation="PIR")
NRRD = "type: short\ndimension: 3\nsizes: 20 24 28\nendian: little\nencoding: raw\n"
LPS = "space: left-posterior-superior\nspace directions: (2,0,0) (0,2,0) (0,0,3)\nspace origin: (0,0,0)\n"
META = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 20 24 28\n"
MATRIX = "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return ball_scan(SHAPE, affine_of(SHAPE, SPACING), [(0, 0, 0)], radius=12) - 100


def write(tmp_path, data, ending: str, fields: str):
    path = tmp_path / f"ct{ending}"
    raw = data.astype("<i2").tobytes(order="F")
    meta = f"{META}{fields}ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes((f"NRRD0004\n{NRRD}{fields}\n" if ending == ".nrrd" else meta).encode() + raw)
    return path


def undeclared_nifti(tmp_path, data, mm: float = 1.0):
    image = nib.Nifti1Image(data, np.diag([*SPACING / mm, 1.0]))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.header.set_zooms(SPACING / mm)
    image.header.set_xyzt_units({1.0: "mm", 1e-3: "micron"}[mm])
    nib.save(image, tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def refusal(path, rules=None) -> str:
    with pytest.raises(ValueError) as caught:
        read_header(path, rules=rules or GeometryRules())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


UNDECLARED = [
    (".nrrd", "spacings: 2 2 3\n", "has no `space`"),
    (".nrrd", "space dimension: 3\nspace directions: (2,0,0) (0,2,0) (0,0,3)\n", "has no `space`"),
    (".nrrd", "space: scanner-xyz\nspace directions: (2,0,0) (0,2,0) (0,0,3)\n", "names no directions"),
    (".mha", "ElementSpacing = 2 2 3\n", "no TransformMatrix"),
    (".mha", "ElementSize = 2 2 3\nOffset = 0 0 0\n", "no TransformMatrix"),
]


@pytest.mark.parametrize(("ending", "fields", "word"), UNDECLARED)
def test_an_undeclared_orientation_is_refused_or_assumed(tmp_path, data, ending, fields, word):
    path = write(tmp_path, data, ending, fields)
    line = refusal(path)
    assert word in line
    assert "assume_orientation" in line
    header = read_header(path, rules=RULES)
    assert "".join(nib.aff2axcodes(header.affine)) == "PIR"
    np.testing.assert_allclose(header.spacing, SPACING)
    assert any("PIR was assumed" in note for note in header.notes)
    with pytest.raises(ValueError, match=word):
        read_volume(path)
    (issue,) = inspect_case({"image": str(path)})[0]
    assert (issue.severity, word in issue.line) == ("error", True)


@pytest.mark.parametrize("mm", [1.0, 1e-3])
def test_a_nifti_without_orientation_is_refused_or_assumed(tmp_path, data, mm):
    path = undeclared_nifti(tmp_path, data, mm)
    assert "none is assumed" in refusal(path)
    header = read_header(path, rules=RULES)
    np.testing.assert_allclose(header.affine, RULES.assumed_affine(SPACING), atol=1e-5)
    with open_slice_writer(tmp_path / "mask.nii.gz", header):
        pass
    mask = read_volume(tmp_path / "mask.nii.gz")  # declares what was assumed
    np.testing.assert_allclose(mask.affine, header.affine, atol=1e-5)


def test_a_declared_orientation_is_never_replaced(tmp_path, data):
    path = save(tmp_path / "ct.nii.gz", data, affine_of(SHAPE, SPACING))
    header = read_header(path, rules=RULES)
    np.testing.assert_allclose(header.affine, affine_of(SHAPE, SPACING), atol=1e-5)
    assert header.notes == read_header(path).notes


@pytest.mark.parametrize(("ending", "fields"), [(".nrrd", ""), (".mha", ""), (".nrrd", "spacings: 0 1 1\n")])
def test_no_size_to_assume_an_orientation_with(tmp_path, data, ending, fields):
    assert "neither orientation nor a voxel size" in refusal(write(tmp_path, data, ending, fields), RULES)


@pytest.mark.parametrize(("unit", "factor"), [("um", 1000.0), ("cm", 0.1), ("mm", 1.0)])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_units_of_nrrd_and_mha_are_honoured(tmp_path, data, ending, unit, factor):
    x, z = 2 * factor, 3 * factor
    fields = {
        ".nrrd": f'space: LPS\nspace units: "{unit}" "{unit}" "{unit}"\nspace directions: ({x},0,0) (0,{x},0) (0,0,{z})\n',
        ".mha": f"{MATRIX}ElementSpacing = {x} {x} {z}\nDistanceUnits = {unit}\n",
    }
    path = write(tmp_path, data, ending, fields[ending])
    header = read_header(path)
    np.testing.assert_allclose(header.spacing, SPACING)
    assert any("converted to mm" in note for note in header.notes) == (unit != "mm")
    np.testing.assert_allclose(nib.affines.voxel_sizes(read_volume(path).affine), SPACING)


@pytest.mark.parametrize(
    ("ending", "fields"), [(".nrrd", LPS + 'space units: "inch" "inch" "inch"\n'), (".nrrd", LPS + 'space units: "mm" "mm" "um"\n')]
)
def test_other_units_are_refused(tmp_path, data, ending, fields):
    assert "space units" in refusal(write(tmp_path, data, ending, fields))


@pytest.mark.parametrize(("unit", "mm"), [("micron", 1e-3), ("meter", 1000.0)])
def test_units_of_nifti_are_honoured_and_kept_in_the_mask(tmp_path, data, unit, mm):
    affine = affine_of(SHAPE, SPACING)
    stored = affine.copy()
    stored[:3] /= mm
    image = nib.Nifti1Image(data, stored)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "ct.nii.gz")
    header = read_header(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(header.affine, affine, atol=1e-4)
    np.testing.assert_allclose(read_volume(tmp_path / "ct.nii.gz").affine, affine, atol=1e-4)
    with open_slice_writer(tmp_path / "mask.nii.gz", header):
        pass
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.header.get_xyzt_units()[0] == unit
    np.testing.assert_allclose(mask.affine, stored, rtol=1e-4)
    issues = inspect_case({"image": str(tmp_path / "ct.nii.gz")})[0]
    assert "units" in [i.code for i in issues if i.severity == "error"]


def test_mm_declared_in_another_unit_are_refused(tmp_path, data):
    for unit, word in (("micron", "covers only 0.04 x 0.048 x 0.084 mm"), ("meter", "more than 3000 mm")):
        image = nib.Nifti1Image(data, affine_of(SHAPE, SPACING))
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "ct.nii.gz")
        assert word in refusal(tmp_path / "ct.nii.gz")


def test_a_sform_that_contradicts_pixdim_is_refused(tmp_path, data):
    path = save(tmp_path / "ct.nii", data, affine_of(SHAPE, SPACING))
    content = bytearray(path.read_bytes())
    content[80:92] = np.array([1, 1, 1], "<f4").tobytes()  # pixdim[1:4]
    path.write_bytes(bytes(content))
    assert "its sform has voxels of 2 x 2 x 3, its pixdim 1 x 1 x 1" in refusal(path)
    assert "pixdim" in inspect_case({"image": str(path)})[0][0].line


def test_directions_without_vectors_are_refused(tmp_path, data):
    assert "no `space directions`" in refusal(write(tmp_path, data, ".nrrd", "space: LPS\nspacings: 2 2 3\n"))


def test_slices_far_apart_are_refused(tmp_path, data):
    path = save(tmp_path / "ct.nii.gz", data[:, :, :4], affine_of((20, 24, 4), (2.0, 2.0, 18.0)))
    assert "its slices are 18.0 mm apart; must be at most 10 mm" in refusal(path)


def test_a_qform_alone_is_an_orientation(tmp_path, data):
    affine = np.array([[0, 0, -3.0, 5], [-1.0, 0, 0, 7], [0, -1.0, 0, 9], [0, 0, 0, 1]])  # PIR, as VerSe stores its CTs
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine)
    image.set_sform(None, 0)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "ct.nii.gz").affine, affine, atol=1e-6)


@pytest.mark.parametrize("dimensions", ["-1", "-1 -1 -1", "0", "99", "", "x"])
def test_number_of_dimensions_that_readers_never_end_on(tmp_path, dimensions):
    path = tmp_path / "a.mha"
    path.write_text(
        f"ObjectType = Image\nNDims = {dimensions}\nDimSize = 7 6 5\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    with pytest.raises(ValueError, match=r"a\.mha: has ndims"):
        read_header(path)
