# SPDX-License-Identifier: Apache-2.0
"""Names of cases: endings of tools, images and masks in one folder, a folder per case, TotalSegmentator's layout."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_series
from scripts.core.errors import InputError
from scripts.data.case_files import file_of_case, find_case_files
from scripts.io.case_naming import ENDINGS, case_name, content_of
from scripts.io.label_maps import read_label_map


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(root: Path, content: str) -> dict[str, str]:
    return {k: v.relative_to(root).as_posix() for k, v in find_case_files(root, content).files.items()}


@pytest.mark.parametrize("separator", ["_", "-", "."])
def test_every_ending_leaves_the_name_of_the_case(separator):
    for content, words in ENDINGS.items():
        for word in words.split("|"):
            file = f"p-07{separator}{word.upper() if len(word) < 4 else word}.nii.gz"
            assert (case_name(file), content_of(file)) == ("p-07", content), file


def test_endings_pile_up_and_numbers_of_cases_stay():
    files = ("p1_ct.nii.gz", "p1_0000.nii.gz", "p1_seg-vert_msk.nii.gz", "p1-mask.png", "p1_ct_0000_pred.mha")
    assert {case_name(f) for f in files} == {"p1"}
    assert case_name("ct.nii.gz") == "ct"
    assert len({case_name(f"phantom-{n:04d}_ct.nii") for n in (0, 7, 3000)} | {case_name("a_2019.nii")}) == 4


def test_one_folder_of_images_and_masks(tmp_path):
    touch(tmp_path, "a_ct.nii.gz", "a_seg.nii.gz", "a_vertebrae.nii.gz", "b.nii.gz", "b_mask.nii.gz", "c_mask.nii.gz", "c.png")
    assert names(tmp_path, "image") == {"a": "a_ct.nii.gz", "b": "b.nii.gz"}
    assert names(tmp_path, "mask") == {"a": "a_seg.nii.gz", "b": "b_mask.nii.gz", "c": "c_mask.nii.gz"}
    assert names(tmp_path, "vertebrae")["a"] == "a_vertebrae.nii.gz"
    unused = find_case_files(tmp_path, "image").unused
    assert [line.split(":")[0].rpartition("/")[2] for line in unused] == ["c.png", "c_mask.nii.gz"]


def test_masks_called_as_their_images_are_used(tmp_path):
    touch(tmp_path, "a_ct.nii.gz", "b_0000.nii.gz")
    assert set(names(tmp_path, "mask")) == {"a", "b"}


def test_a_folder_per_case_names_it_where_files_do_not(tmp_path):
    touch(tmp_path, "p1/ct.nii.gz", "p1/seg.nii.gz", "p2/ct.nii.gz", "p2/seg.nii.gz", "p3/p3x_ct.nii.gz", "p3/p3y_ct.nii.gz")
    assert set(names(tmp_path, "image")) == {"p1", "p2", "p3x", "p3y"}
    assert names(tmp_path, "mask") == {"p1": "p1/seg.nii.gz", "p2": "p2/seg.nii.gz"}
    assert file_of_case(find_case_files(tmp_path, "mask").files, tmp_path / "p2" / "ct.nii.gz") == tmp_path / "p2" / "seg.nii.gz"


def test_folders_that_are_not_searched_are_named(tmp_path):
    touch(tmp_path, "p0.nii.gz", "p1/ct.nii.gz", "notes/a.txt", "pictures/a.png")
    found = find_case_files(tmp_path, "image")
    assert set(found.files) == {"p0"}
    assert found.unsearched == [tmp_path / "p1"]


def test_a_picture_beside_folders_of_cases_hides_none(tmp_path):
    touch(tmp_path, "overview.png", "p1/ct.nii.gz", "p2/ct.nii.gz", "masks/a.png")
    found = find_case_files(tmp_path, "image")
    assert set(found.files) == {"p1", "p2"}
    assert found.unused == [f"{tmp_path / 'overview.png'}: is a picture beside volumes; left out"]
    touch(tmp_path, "notes/2026/readme.txt")
    assert not find_case_files(tmp_path, "image").problems
    touch(tmp_path / "slices", "s1.png", "s2.png", "masks/s1.png", "masks/s2.png", "raw/s1.nii.gz")
    assert names(tmp_path / "slices", "image") == {"s1": "s1.png", "s2": "s2.png"}


def test_hidden_files_of_a_series_are_no_part_of_it(tmp_path):
    write_series(tmp_path / "p1", np.zeros((7, 8, 8), np.int16))
    touch(tmp_path, *(f"p1/._{k}.dcm" for k in range(6)))
    assert names(tmp_path, "image") == {"p1": "p1"}


def test_files_of_another_content_are_left_out_by_path(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b.nii.gz")
    images = find_case_files(tmp_path, "image").files
    assert set(images) == {"a", "b"}
    assert set(find_case_files(tmp_path, "mask", without=images.values()).files) == {"a"}


def test_folders_of_one_mask_per_vertebra_are_masks(tmp_path):
    mask = np.zeros((3, 3, 4), np.uint8)
    for case in ("s1", "s2"):
        for k, level in enumerate(("L1", "T13")):
            mask[:] = 0
            mask[..., k] = 1
            path = tmp_path / case / "segmentations" / f"vertebrae_{level}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(mask, np.eye(4)), path)
        touch(tmp_path, f"{case}/ct.nii.gz", f"{case}/segmentations/liver.nii.gz")
    assert set(names(tmp_path, "image")) == {"s1", "s2"}
    assert names(tmp_path, "mask") == names(tmp_path, "vertebrae") == {c: f"{c}/segmentations" for c in ("s1", "s2")}
    for source in (tmp_path / "s1", tmp_path / "s1" / "segmentations"):
        assert find_case_files(source, "vertebrae").files == {"ct": tmp_path / "s1" / "segmentations"}
        assert np.unique(np.asarray(read_label_map(source).dataobj)).tolist() == [0, 20, 28]
    assert names(tmp_path / "s1", "image") == {"ct": "ct.nii.gz"}


def test_one_name_twice_is_left_out_with_a_line(tmp_path):
    touch(tmp_path, "a_seg.nii.gz", "a_mask.nrrd", "b.nii.gz")
    found = find_case_files(tmp_path, "mask")
    assert set(found.files) == {"b"}
    assert "a_mask.nrrd: has the same name as a_seg.nii.gz" in found.problems[0]


def test_folders_without_files_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "file.txt")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.nii.gz").symlink_to(tmp_path / "gone")
    for folder, words in (
        ("nowhere", "no such folder"),
        ("empty", "contains no image"),
        ("file.txt", "is a file"),
        ("links", "restore it"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            find_case_files(tmp_path / folder, "image")
        assert "\n" not in str(caught.value)


def test_an_unreadable_subfolder_is_one_line(tmp_path, monkeypatch):
    touch(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz")
    iterate = Path.iterdir

    def refuse(self):
        if self.name == "p1":
            raise PermissionError(13, "Permission denied", str(self))
        return iterate(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = find_case_files(tmp_path, "image")
    assert len(found.files) == 1
    assert "p1: cannot be read (Permission denied); change its permissions" in found.problems[0]


def test_a_folder_whose_series_is_refused_has_one_reason(tmp_path):
    volume = np.zeros((12, 8, 8), np.int16)
    common = {"StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.4", "PatientID": "p"}
    for part, first in (("A", 0), ("B", 6)):
        files = write_series(tmp_path / "p1" / part, volume, **common)
        for k, file in enumerate(files):
            if not first <= k < first + 6:
                file.unlink()
    touch(tmp_path, "p1/report/page.txt", "p2/ct.nii.gz")
    found = find_case_files(tmp_path, "image")
    assert not any(f"{tmp_path / 'p1'}: contains no image" in line for line in found.problems)
    assert any("report: contains no image" in line for line in found.problems)
    assert any("is a part of the series" in line for line in found.problems)


def test_series_that_may_continue_elsewhere_have_a_remark(tmp_path):
    volume = np.zeros((6, 8, 8), np.int16)
    for part in ("A", "B"):  # the same numbers, as of two phases
        write_series(tmp_path / "p1" / part, volume, StudyInstanceUID="1.2", FrameOfReferenceUID="1.4", PatientID="p")
    found = find_case_files(tmp_path, "image")
    assert len(found.files) == 2
    assert len(found.remarks) == 2
    assert all("has the SeriesInstanceUID of" in line for line in found.remarks)
    assert find_case_files(tmp_path, "image").problems == []


def test_numbers_of_cases_are_no_channel_of_nnunet(tmp_path):
    names = [f"case_{k:04d}" for k in (1, 2, 10)]
    touch(
        tmp_path,
        *(f"images/{n}_0000.nii.gz" for n in names),
        *(f"masks/{n}.nii.gz" for n in names),
        *(f"o/{n}/ct.nii.gz" for n in names),
    )
    for folder, role in (("images", "image"), ("masks", "mask"), ("o", "image")):
        found = find_case_files(tmp_path / folder, role)
        assert (sorted(found.files), found.problems) == (names, [])
