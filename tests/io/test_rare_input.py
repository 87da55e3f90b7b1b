# SPDX-License-Identifier: Apache-2.0
"""Rare kinds of scans are read with the right HU, or refused in one line with the remedy."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series, write_slice
from scripts.inference.inputs import find_inputs
from scripts.io.ct_volume import Scan
from scripts.io.formats import read_volume
from scripts.io.geometry_rules import GeometryRules
from scripts.io.scan_header import read_header
from test_dicom_multiframe import write_enhanced

pydicom = pytest.importorskip("pydicom")
VOLUME = np.random.default_rng(0).integers(-1000, 1500, (6, 7, 5)).astype(np.int16)
SAGITTAL = ["0", "1", "0", "0", "0", "-1"]


def hu(path) -> np.ndarray:
    """HU (slice, row, column) as segmentation reads them."""
    header = read_header(str(path), require_volume=False)
    return Scan(header, expect_hu=False).slab(0, header.shape[2])


def rewrite(folder, change) -> None:
    """Change every slice of a series: ``change(number, dataset)``."""
    for k, file in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(file)
        change(k, data)
        data.save_as(file)


@pytest.mark.parametrize(("slope", "intercept"), [("1", "0"), ("1", "-1000"), ("1", "-8192"), ("0.5", "-500"), ("2", "-3024")])
def test_any_rescaling_gives_hu(tmp_path, slope, intercept):
    stored = np.arange(VOLUME.size, dtype=np.uint16).reshape(VOLUME.shape) * 37
    write_series(tmp_path / "s", VOLUME, RescaleSlope=slope, RescaleIntercept=intercept)
    rewrite(tmp_path / "s", lambda k, d: setattr(d, "PixelData", stored[k].tobytes()))
    np.testing.assert_array_equal(hu(tmp_path / "s"), np.rint(stored * float(slope) + float(intercept)))


def test_slopes_of_single_slices_are_their_own(tmp_path):
    def change(k, data):
        data.RescaleSlope, data.RescaleIntercept = f"{1 + 0.01 * k:.2f}", str(-1024 - k)

    write_series(tmp_path / "s", VOLUME)
    rewrite(tmp_path / "s", change)
    expected = np.stack([(v + 1024.0) * (1 + 0.01 * k) - 1024 - k for k, v in enumerate(VOLUME)])
    assert np.abs(hu(tmp_path / "s") - expected).max() <= 0.51  # of rounding


def test_signed_and_unsigned_slices_in_one_series(tmp_path):
    def change(k, data):
        if k % 2:
            data.PixelRepresentation, data.RescaleIntercept, data.PixelData = 1, "0", VOLUME[k].tobytes()

    write_series(tmp_path / "s", VOLUME)
    rewrite(tmp_path / "s", change)
    np.testing.assert_array_equal(hu(tmp_path / "s"), VOLUME)


def test_signed_values_of_twelve_bits(tmp_path):
    def change(k, data):
        data.PixelRepresentation, data.BitsStored, data.HighBit, data.RescaleIntercept = 1, 12, 11, "0"
        data.PixelData = (VOLUME[k] & 0x0FFF).astype(np.uint16).tobytes()

    write_series(tmp_path / "s", VOLUME)
    rewrite(tmp_path / "s", change)
    np.testing.assert_array_equal(hu(tmp_path / "s"), VOLUME)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Modality": "MR"}, "Modality is MR; must be CT, .* choose the CT series"),
        ({"Modality": "PT"}, "Modality is PT; must be CT"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1; must be MONOCHROME2, so export the series again"),
    ],
)
def test_other_images_are_refused_with_the_remedy(tmp_path, changes, words):
    write_series(tmp_path / "s", VOLUME, **changes)
    with pytest.raises(ValueError, match=words):
        hu(tmp_path / "s")


def test_the_axial_series_of_a_folder_is_used(tmp_path):
    write_series(tmp_path / "s", VOLUME, SeriesInstanceUID="1.2.5")
    for n in range(3):
        scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2.6"}
        write_slice(tmp_path / "s" / f"scout{n}.dcm", VOLUME[n], [0, 0, n], **scout)
        write_slice(
            tmp_path / "s" / f"z{n}.dcm", VOLUME[n], [n, 0, 109], SeriesInstanceUID="1.2.7", ImageOrientationPatient=SAGITTAL
        )
    header = read_header(str(tmp_path / "s"), require_volume=False)
    assert header.shape == (5, 7, 6)
    notes = "\n".join(header.notes)
    assert "3 localizer(s) skipped" in notes
    assert "the axial series 1.2.5 (6 files) is used; not used: 1.2.7 (3 files, sagittal)" in notes


@pytest.mark.parametrize(
    ("rows", "number", "modality"),
    [(40, 3, "CT"), (40, 9, "CT"), (16, 9, "CT"), (7, 3, "MR")],  # axial slices of 12 mm
    ids=["third", "third_of_fewer", "most_of_fewer", "no_ct"],
)
def test_an_axial_block_beside_reformats_is_refused(tmp_path, rows, number, modality):
    write_series(tmp_path / "s", VOLUME, SeriesInstanceUID="1.2.5", Modality=modality)
    pixels = np.zeros((rows, 5), np.int16)
    for n in range(number):
        sagittal = {"SeriesInstanceUID": "1.2.7", "ImageOrientationPatient": SAGITTAL}
        write_slice(tmp_path / "s" / f"z{n}.dcm", pixels, [n, 0, 112], **sagittal)
    with pytest.raises(ValueError, match=r"contains 2 series: .*put each series into its own folder"):
        hu(tmp_path / "s")


@pytest.mark.parametrize("orientation", [["1", "0", "0", "0", "1", "0"], None])
def test_two_axial_series_of_a_folder_are_refused(tmp_path, orientation):
    write_series(tmp_path / "s", VOLUME, SeriesInstanceUID="1.2.5")
    for n in range(3):
        other = {"SeriesInstanceUID": "1.2.7", "ImageOrientationPatient": orientation}
        write_slice(tmp_path / "s" / f"z{n}.dcm", VOLUME[n], [0, 0, n], **other)
    with pytest.raises(ValueError, match=r"contains 2 series: .*put each series into its own folder"):
        hu(tmp_path / "s")


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_with_detached_voxels_is_read(tmp_path, encoding):
    name = "a.raw.gz" if encoding == "gzip" else "a.raw"
    data = VOLUME.tobytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if encoding == "gzip" else data)
    lines = [
        "NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 5 7 6", "endian: little",
        "space directions: (0.6,0,0) (0,0.8,0) (0,0,2)", "kinds: domain domain domain", f"encoding: {encoding}",
        "space origin: (-30,-20,100)", f"data file: {name}", "",
    ]  # fmt: skip
    (tmp_path / "a.nhdr").write_text("\n".join(lines), encoding="ascii")
    np.testing.assert_array_equal(hu(tmp_path / "a.nhdr"), VOLUME)
    header = read_header(str(tmp_path / "a.nhdr"), require_volume=False)
    np.testing.assert_allclose(header.affine, np.array([[-0.6, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2, 100], [0, 0, 0, 1.0]]))
    np.testing.assert_array_equal(np.asarray(read_volume(tmp_path / "a.nhdr").dataobj).T, VOLUME)
    found = find_inputs(str(tmp_path))
    assert [c["image"] for c in found] == [str(tmp_path / "a.nhdr")]
    assert found.unused == []
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"a\.nhdr") as refused:
        hu(tmp_path / "a.nhdr")
    assert "\n" not in str(refused.value)


def test_enhanced_ct_in_rle_is_decoded(tmp_path):
    file = write_enhanced(tmp_path / "s", VOLUME)
    data = pydicom.dcmread(file)
    data.compress(pydicom.uid.RLELossless)
    data.save_as(file)
    np.testing.assert_array_equal(hu(tmp_path / "s"), VOLUME)


@pytest.mark.parametrize(
    ("shape", "words"), [((5, 7, 6, 1, 3), "three dimensions"), ((5, 7, 6, 2), "three dimensions"), ((5, 7, 6, 1, 1), None)]
)
def test_volumes_of_more_dimensions(tmp_path, shape, words):
    data = np.broadcast_to(VOLUME.T.reshape(5, 7, 6, *[1] * (len(shape) - 3)), shape)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(data), np.diag([1.0, 1, 2, 1])), tmp_path / "a.nii.gz")
    if words is None:
        np.testing.assert_array_equal(hu(tmp_path / "a.nii.gz"), VOLUME)
        return
    with pytest.raises(ValueError, match=words):
        hu(tmp_path / "a.nii.gz")


def test_colours_in_nifti_are_refused(tmp_path):
    colours = np.zeros((5, 7, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.diag([1.0, 1, 2, 1])), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"colour .RGB. image; use the original CT"):
        hu(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("rules", [GeometryRules(), GeometryRules("LPS")])
def test_a_contradicting_pixdim_is_refused_until_both_agree(tmp_path, rules):
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(VOLUME.T, np.diag([1.0, 1, 2, 1])), path)
    raw = bytearray(path.read_bytes())
    raw[88:92] = np.float32(2.2).tobytes()  # pixdim[3]
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="set both to the true size"):
        read_header(str(path), require_volume=False, rules=rules)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), tmp_path / "b.nii")
    assert read_header(str(tmp_path / "b.nii"), require_volume=False, rules=rules).shape == (5, 7, 6)
