# SPDX-License-Identifier: Apache-2.0
"""Own images and masks: pairs by name, formats, values of the mask, pictures as single slices."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scripts.core.errors import InputError
from scripts.data.datasets.folder import folder
from scripts.io.formats import read_picture, read_volume

AFFINE = np.array([[-2.0, 0, 0, 9], [0, -1.0, 0, 8], [0, 0, 1.5, 7], [0, 0, 0, 1]])


@pytest.fixture
def volumes(tmp_path):
    """Four scans in NIfTI, NRRD and MHA with masks in NIfTI; two of one patient."""
    import itk

    rng = np.random.default_rng(0)
    for name, kind in (("p1_a", "nii.gz"), ("p1_b", "nrrd"), ("p2_a", "mha"), ("p3_a", "nii")):
        data = rng.integers(-500, 900, (6, 7, 8)).astype(np.int16)
        mask = np.zeros(data.shape, np.uint8)
        mask[2:4, 2:5, 2:6] = 1
        image = nib.Nifti1Image(data, AFFINE)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        target = tmp_path / "images" / f"{name}_0000.{kind}"
        if kind.startswith("nii"):
            nib.save(image, target)
        else:
            nib.save(image, tmp_path / "x.nii.gz")
            itk.imwrite(itk.imread(str(tmp_path / "x.nii.gz")), str(target))
        nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "labels" / f"{name}_seg.nii.gz")
    return tmp_path


def cases_of(path) -> dict[str, dict]:
    content = json.loads(Path(path).read_text())
    cases = [c | {"section": s} for s in ("training", "validation", "testing") for c in content[s]]
    return {c["label"].split("/")[-1].removesuffix(".nii.gz") if "label" in c else c["image"]: c for c in cases}


def test_all_formats_are_paired_and_keep_their_grid(volumes):
    out = volumes / "out"
    cases = cases_of(folder(str(volumes / "images"), str(volumes / "labels"), out=str(out), patient="^[^_]+"))
    assert set(cases) == {"p1_a", "p1_b", "p2_a", "p3_a"}
    assert cases["p1_a"]["section"] == cases["p1_b"]["section"]
    assert cases["p1_a"]["patient"] == "p1"
    assert cases["p1_a"]["image"].startswith("../images")  # NIfTI stays where it is
    assert cases["p1_b"]["image"] == "images/p1_b.nii.gz"
    for case in cases.values():
        image, label = nib.load(out / case["image"]), nib.load(out / case["label"])
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
        np.testing.assert_allclose(label.affine, AFFINE, atol=1e-5)
        assert np.count_nonzero(np.asarray(label.dataobj)) == 2 * 3 * 4


def test_several_mask_values_must_be_named(volumes, capsys):
    path = volumes / "labels" / "p1_a_seg.nii.gz"
    mask = np.asarray(nib.load(path).dataobj).copy()
    mask[0, 0, 0], mask[5, 5, 5] = 7, 9
    nib.save(nib.Nifti1Image(mask, AFFINE), path)
    out = volumes / "out"
    with pytest.raises(InputError, match="1 of 4"):
        folder(str(volumes / "images"), str(volumes / "labels"), out=str(out))
    printed = capsys.readouterr().out
    assert 'values [0, 1, 7, 9]; name those of fractures, such as --fractured "[1,7]"' in printed
    cases = cases_of(folder(str(volumes / "images"), str(volumes / "labels"), out=str(out), fractured=[1, 7], unknown=9))
    label = np.asarray(nib.load(out / cases["p1_a"]["label"]).dataobj)
    assert (label[0, 0, 0], label[5, 5, 5], label[2, 2, 2], label[1, 1, 1]) == (1, 255, 1, 0)
    before = (out / "labels" / "p1_a.nii.gz").stat().st_mtime_ns
    folder(str(volumes / "images"), str(volumes / "labels"), out=str(out), fractured=[1, 7], unknown=9)
    assert (out / "labels" / "p1_a.nii.gz").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("present", "suggestion"),
    [([1, 255], "--fractured 1 --unknown 255"), ([19, 20], '--fractured "[19,20]", or, if they number'), ([30, 77], '"[30,77]"')],
)
def test_the_refusal_suggests_values_of_the_file(volumes, capsys, present, suggestion):
    for path in (volumes / "labels").iterdir():
        mask = np.asarray(nib.load(path).dataobj).copy()
        mask[mask == 1] = present[1]
        mask[0, 0, 0] = present[0]
        nib.save(nib.Nifti1Image(mask, AFFINE), path)
    images, labels, out = (str(volumes / n) for n in ("images", "labels", "out"))
    with pytest.raises(InputError, match="contains the values") as caught:
        folder(images, labels, out=out)
    assert suggestion in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(cases_of(folder(images, labels, out=out, fractured=present[0], unknown=present[1]))) == 4  # the same folder


def test_patients_are_guessed_aloud_or_of_a_pattern_or_table(volumes, capsys):
    images, labels = (str(volumes / n) for n in ("images", "labels"))
    expected = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2", "p3_a": "p3"}
    found = cases_of(folder(images, labels, out=str(volumes / "a")))
    printed = capsys.readouterr().out
    assert {k: c["patient"] for k, c in found.items()} == expected
    assert found["p1_a"]["section"] == found["p1_b"]["section"]
    assert "warning: 3 patient(s) of 4 case(s) are guessed from the names" in printed
    assert "  p1: p1_a, p1_b" in printed
    found = cases_of(folder(images, labels, out=str(volumes / "b"), patient="(*)_*"))
    assert {k: c["patient"] for k, c in found.items()} == expected
    (volumes / "t.csv").write_text("case;patient\np1_a;x\np1_b_0000.nrrd;y\np2_a;y\n")
    found = cases_of(folder(images, labels, out=str(volumes / "c"), patient="^[^_]+", table=str(volumes / "t.csv")))
    assert {k: c["patient"] for k, c in found.items()} == {"p1_a": "x", "p1_b": "y", "p2_a": "y", "p3_a": "p3"}
    assert "guessed" not in capsys.readouterr().out


def test_images_without_mask_are_lines_and_others_written(volumes, capsys):
    (volumes / "labels" / "p1_b_seg.nii.gz").rename(volumes / "labels" / "p1_bb_seg.nii.gz")
    (volumes / "labels" / "p3_a_seg.nii.gz").write_bytes(b"broken")
    with pytest.raises(InputError, match="3 of 5 cases were skipped"):
        folder(str(volumes / "images"), str(volumes / "labels"), out=str(volumes / "out"))
    printed = capsys.readouterr().out
    assert "p1_b_0000.nrrd: has no mask of the same name; did you mean p1_bb?" in printed
    assert "p1_bb_seg.nii.gz: has no image of the same name; did you mean p1_b?" in printed
    assert "p3_a_seg.nii.gz" in printed
    assert set(cases_of(volumes / "out" / "datalist.json")) == {"p1_a", "p2_a"}


def test_pictures_become_one_sagittal_slice_head_up(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    picture = np.tile(np.arange(20, dtype=np.uint8), (30, 1))  # brighter to the right: back of the patient
    picture[0] = 200  # head
    mask = np.zeros((30, 20), np.uint8)
    mask[3:6, 4:9] = 255
    for k in range(3):
        Image.fromarray(picture).save(tmp_path / "images" / f"s{k}.png")
        Image.fromarray(mask).save(tmp_path / "labels" / f"s{k}.png")
    cases = cases_of(folder(str(tmp_path / "images"), str(tmp_path / "labels"), out=str(tmp_path / "out"), pixel_mm=0.5))
    image, label = (nib.load(tmp_path / "out" / cases["s0"][k]) for k in ("image", "label"))
    canonical = nib.as_closest_canonical(image)  # right, anterior, head
    data = np.asarray(canonical.dataobj)
    assert data.shape == (1, 20, 30)
    assert canonical.header.get_zooms() == (1.0, 0.5, 0.5)
    assert (data[0, :, -1] == 200).all()
    assert (np.diff(data[0, :, 0].astype(int)) == -1).all()
    assert np.unique(np.asarray(label.dataobj)).tolist() == [0, 1]
    np.testing.assert_array_equal(np.asarray(label.dataobj)[0].T[::-1] * 255, mask)


def test_pictures_of_16_bits_need_another_window(tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for k, kind in enumerate((np.uint8, np.uint16, np.uint16)):
        Image.fromarray((np.arange(600).reshape(30, 20) % 251 * (1 if kind is np.uint8 else 16)).astype(kind)).save(
            tmp_path / "images" / f"s{k}.png"
        )
        Image.fromarray((np.arange(600).reshape(30, 20) > 500).astype(np.uint8) * 255).save(tmp_path / "labels" / f"s{k}.png")
    folder(str(tmp_path / "images"), str(tmp_path / "labels"), out=str(tmp_path / "out"))
    assert '2 picture(s) have more than 8 bits: train with their range, such as --hu_window "[0, 4095]"' in capsys.readouterr().out


def test_a_scan_without_a_mask_is_no_mask_of_itself(volumes, capsys):
    """Images and masks in one folder, flat or one folder a case, before all masks are drawn."""
    one, nested = volumes / "one", volumes / "nested"
    one.mkdir()
    for name in ("p1_a", "p1_b", "p2_a", "p3_a"):
        image, mask = read_volume(next((volumes / "images").glob(f"{name}*"))), volumes / "labels" / f"{name}_seg.nii.gz"
        (nested / name).mkdir(parents=True)
        for file in (one / f"{name}.nii.gz", nested / name / "scan.nii.gz"):
            nib.save(image, file)
        if name != "p2_a":
            for file in (one / mask.name, nested / name / "seg.nii.gz"):
                file.write_bytes(mask.read_bytes())
    for root in (one, nested):
        out = volumes / f"out_{root.name}"
        with pytest.raises(InputError, match="1 of 4 cases were skipped"):
            folder(str(root), str(root), out=str(out), fractured=1)
        assert "has no mask of the same name" in capsys.readouterr().out
        assert set(cases_of(out / "datalist.json")) == {"p1_a", "p1_b", "p3_a"}


def test_the_ignore_index_alone_is_no_fracture(volumes, capsys):
    path = volumes / "labels" / "p2_a_seg.nii.gz"
    mask = np.asarray(nib.load(path).dataobj) * np.uint8(255)
    nib.save(nib.Nifti1Image(mask, AFFINE), path)
    images, labels, out = (str(volumes / n) for n in ("images", "labels", "out"))
    with pytest.raises(InputError, match="1 of 4"):
        folder(images, labels, out=out)
    assert "p2_a_seg.nii.gz: contains 255 alone; --unknown 255 where the grade is unknown" in capsys.readouterr().out
    cases = cases_of(folder(images, labels, out=out, unknown=255))
    values = {n: np.unique(np.asarray(nib.load(volumes / "out" / c["label"]).dataobj)).tolist() for n, c in cases.items()}
    assert values == {"p1_a": [0, 1], "p1_b": [0, 1], "p2_a": [0, 255], "p3_a": [0, 1]}


def test_a_case_of_two_patients_in_a_table_is_left_out(volumes, capsys):
    table = volumes / "t.csv"
    table.write_text("case;patient\np1_a;A\np1_a;B\np2_a;A\n")
    with pytest.raises(InputError, match="1 of 4 cases were skipped"):
        folder(str(volumes / "images"), str(volumes / "labels"), out=str(volumes / "out"), table=str(table))
    cases = cases_of(volumes / "out" / "datalist.json")
    assert set(cases) == {"p1_b", "p2_a", "p3_a"}
    assert cases["p2_a"]["patient"] == "A"


def test_without_labels_all_cases_are_for_testing(volumes):
    path = folder(str(volumes / "images"), out=str(volumes / "out"))
    content = json.loads(Path(path).read_text())
    assert content["training"] == []
    assert len(content["testing"]) == 4
    assert all("label" not in c for c in content["testing"])


def test_colour_pictures_and_other_grids_are_refused(tmp_path, volumes, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 5, 3)).astype(np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match="colour image"):
        read_picture(tmp_path / "c.png")
    nib.save(nib.Nifti1Image(np.zeros((6, 7, 9), np.uint8), AFFINE), volumes / "labels" / "p2_a_seg.nii.gz")
    with pytest.raises(InputError, match="1 of 4"):
        folder(str(volumes / "images"), str(volumes / "labels"), out=str(volumes / "out"))
    assert "p2_a_seg.nii.gz: mask has shape (6, 7, 9)" in capsys.readouterr().out


def test_bad_arguments_are_one_line(volumes):
    images, labels, out = (str(volumes / n) for n in ("images", "labels", "out"))
    (volumes / "empty").mkdir()
    (volumes / "series").mkdir()
    (volumes / "series" / "IM0001").write_bytes(bytes(128) + b"DICM")
    for arguments, words in [
        ({"images": str(volumes / "no")}, "no such folder"),
        ({"images": str(volumes / "empty")}, "contains no image"),
        ({"images": str(volumes / "series")}, "is a DICOM series itself; expected its parent folder"),
        ({"images": images, "labels": labels, "patient": "("}, "not a valid regular expression"),
        ({"images": images, "labels": labels, "patient": "^x"}, "does not match the case name"),
        ({"images": images, "labels": labels, "pixel_mm": 0}, "above 0"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            folder(**arguments, out=out)
        assert "\n" not in str(caught.value)
    (volumes / "images" / "p1_a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="2 of 5 cases were skipped"):  # neither of the two, and a mask without image
        folder(images, labels, out=out)


def test_an_unsupported_format_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"scan.doc: has no supported format"):
        read_volume(tmp_path / "scan.doc")


def convert_own(volumes) -> None:
    folder(str(volumes / "images"), str(volumes / "labels"), out=str(volumes / "own"), patient="^[^_]+")


def test_a_corrected_mask_and_a_deleted_label_are_made_again(volumes):
    convert_own(volumes)
    labels = volumes / "own" / "labels"
    kept = (labels / "p3_a.nii.gz").stat().st_mtime_ns
    corrected = np.zeros((6, 7, 8), np.uint8)
    corrected[1:5, 2:5, 2:6] = 1
    nib.save(nib.Nifti1Image(corrected, AFFINE), volumes / "labels" / "p1_a_seg.nii.gz")
    (labels / "p2_a.nii.gz").unlink()
    convert_own(volumes)
    assert int(np.asarray(nib.load(labels / "p1_a.nii.gz").dataobj).sum()) == corrected.sum()
    assert (labels / "p2_a.nii.gz").is_file()
    assert (labels / "p3_a.nii.gz").stat().st_mtime_ns == kept


def test_cases_of_older_versions_are_adopted(volumes):
    """They have no record of their sources, and no correction before the first rerun is seen."""
    convert_own(volumes)
    record = volumes / "own" / "cases" / "p1_a.json"
    content = json.loads(record.read_text())
    del content["source"]
    record.write_text(json.dumps(content))
    before = (volumes / "own" / "labels" / "p1_a.nii.gz").stat().st_mtime_ns
    convert_own(volumes)
    assert (volumes / "own" / "labels" / "p1_a.nii.gz").stat().st_mtime_ns == before
    nib.save(nib.Nifti1Image(np.zeros((6, 7, 8), np.uint8), AFFINE), volumes / "labels" / "p1_a_seg.nii.gz")
    convert_own(volumes)
    assert not np.asarray(nib.load(volumes / "own" / "labels" / "p1_a.nii.gz").dataobj).any()


def test_the_sources_are_not_overwritten(volumes):
    before = {p: p.read_bytes() for p in volumes.rglob("*.nii*")}
    with pytest.raises(InputError, match="its images is of another data set and would be overwritten"):
        folder(images=str(volumes / "images"), labels=str(volumes / "labels"), out=str(volumes), patient="^[^_]+")
    assert {p: p.read_bytes() for p in volumes.rglob("*.nii*")} == before
    assert not (volumes / "settings.json").exists()


def test_settings_that_leave_nothing_to_learn(volumes, capsys):
    arguments = {"images": str(volumes / "images"), "labels": str(volumes / "labels"), "out": str(volumes / "own")}
    with pytest.raises(InputError, match="unknown=1: is also a value of --fractured"):
        folder(**arguments, fractured=1, unknown=1)
    folder(**arguments, fractured=7, patient="(.)")
    lines = "".join(capsys.readouterr())
    assert "warning: all 4 cases are of one patient, 'p'" in lines
    assert "warning: none of 4 labels has a fracture" in lines


def test_scans_in_nifti_may_lie_in_the_folder_of_the_set(volumes):
    """They stay where they are, and nothing is written beside them."""
    for path in [p for p in (volumes / "images").iterdir() if "nii" not in p.name]:
        path.unlink()
    (volumes / "labels").rename(volumes / "masks")
    before = sorted(p.name for p in (volumes / "images").iterdir())
    with pytest.raises(InputError, match="cases were skipped"):  # masks without image
        folder(images=str(volumes / "images"), labels=str(volumes / "masks"), out=str(volumes), patient="^[^_]+")
    assert sorted(p.name for p in (volumes / "images").iterdir()) == before
    assert (volumes / "datalist.json").is_file()
