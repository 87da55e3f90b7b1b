# SPDX-License-Identifier: Apache-2.0
"""Parts of a series in several folders are one scan; repeated UIDs, other series and other patients are not joined."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_files import NORMAL, write_series, write_slice
from scripts.core.errors import InputError
from scripts.data.case_files import find_case_files
from scripts.inference.case import Outputs, segment_case
from scripts.inference.case_names import scan_hash, stamp
from scripts.inference.discovery import discover_folder, parts_of
from scripts.inference.inputs import find_inputs
from scripts.io import split_series
from scripts.io.dicom_headers import is_dicom
from scripts.io.dicom_series import find_series
from scripts.io.formats import read_volume
from scripts.io.scan_header import read_header
from scripts.io.split_series import find_split_series, part_folders, part_remarks

pydicom = pytest.importorskip("pydicom")
VOLUME = np.random.default_rng(0).integers(-900, 900, (12, 6, 5)).astype(np.int16)
UID = {"SeriesInstanceUID": "1.2.3.77", "StudyInstanceUID": "1.2.3"}
FRAME = {"FrameOfReferenceUID": "1.2.9"}


def series(folder, name, first=0, number=6, beside=0.0, every=1, start: float | None = None, numbered=None, **changes):
    """Slices ``first``, ``first + every``, ... of ``VOLUME``, shifted in plane by ``beside`` mm.

    ``start`` is the position of the first in slices, by default ``first``, and ``numbered`` its InstanceNumber; 0 writes none.
    """
    numbers = range(first, first + every * number, every)
    write_series(folder / name, VOLUME[[k % len(VOLUME) for k in numbers]], step=NORMAL * 2.0 * every, **{**UID, **changes})
    for n, file in enumerate(sorted((folder / name).iterdir())):
        data = pydicom.dcmread(file)
        if numbered != 0:
            data.InstanceNumber = (first + 1 if numbered is None else numbered) + n * every
        shift = NORMAL * 2.0 * (first if start is None else start) + np.asarray(data.ImageOrientationPatient[:3], float) * beside
        data.ImagePositionPatient = [f"{v:.4f}" for v in np.asarray(data.ImagePositionPatient, float) + shift]
        data.save_as(file)
    return str(folder / name)


def number_slices(folder):
    for n, file in enumerate(sorted(folder.iterdir()), 1):
        data = pydicom.dcmread(file)
        data.InstanceNumber = n
        data.save_as(file)


def whole(folder):
    write_series(folder / "whole", VOLUME, **UID)
    return read_volume(folder / "whole")


def test_folders_of_one_series_equal_one_folder(tmp_path):
    series(tmp_path / "ct", "0001"), series(tmp_path / "ct", "0002", first=6)
    expected, joined = whole(tmp_path), read_volume(tmp_path / "ct")
    np.testing.assert_array_equal(np.asarray(joined.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(joined.affine, expected.affine)
    (note,) = find_series(tmp_path / "ct").notes
    assert note.endswith("2 folders of one series are read as one scan: 0001 (6 files), 0002 (6 files)")


def test_a_first_folder_and_its_parts_equal_one_folder(tmp_path):
    a, b = series(tmp_path, "a", first=6), series(tmp_path, "b")
    joined, expected = find_series(a, parts=[b]), find_series((whole(tmp_path), tmp_path / "whole")[1])
    assert joined.shape == expected.shape
    np.testing.assert_allclose(joined.affine, expected.affine)
    assert [f.parent.name for f in joined.files] == ["b"] * 6 + ["a"] * 6


def test_slices_that_alternate_between_folders_are_joined(tmp_path):
    even, odd = series(tmp_path, "a", every=2), series(tmp_path, "b", first=1, every=2)
    assert find_split_series([even, odd]).joined == [[even, odd]]
    assert part_folders(tmp_path) == [Path(even), Path(odd)]


def test_a_tilted_gantry_in_parts_is_joined(tmp_path):
    step = np.array([0.0, 0.6, 2.0])
    write_series(tmp_path / "all", VOLUME, step=step, **UID)
    for name in ("a", "b"):
        (tmp_path / "ct" / name).mkdir(parents=True)
    number_slices(tmp_path / "all")
    for n, file in enumerate(sorted((tmp_path / "all").iterdir())):
        shutil.copy(file, tmp_path / "ct" / "ab"[n > 5])
    joined, expected = find_series(tmp_path / "ct"), find_series(tmp_path / "all")
    assert joined.shape == expected.shape
    assert any("tilted" in note for note in joined.notes)


def test_copies_in_two_folders_count_once(tmp_path):
    a, b = series(tmp_path / "ct", "a", number=8), series(tmp_path / "ct", "b", first=8, number=4)
    for file in sorted(Path(a).iterdir())[-2:]:
        shutil.copy(file, Path(b) / f"copy{file.name}")
    found = find_series(tmp_path / "ct")
    assert found.shape == (5, 6, 12)
    assert any("2 file(s) repeat a slice" in note for note in found.notes)


@pytest.mark.parametrize(
    "other",
    [
        {"first": 0},  # another phase, whole
        {"first": 3},  # overlapping, without a frame of reference
        {"first": 40},  # far away
        {"first": 6, "beside": 25.0},
        {"first": 6, "SeriesInstanceUID": "1.2.3.78"},
        {"first": 6, "PatientID": "another"},
        {"first": 6, "PixelSpacing": ["0.7", "0.7"]},
        {"first": 6, **FRAME},
        {"first": 6, "ImageOrientationPatient": ["0", "1", "0", "0", "0", "-1"]},
    ],
    ids=str,
)
def test_other_folders_are_scans_of_their_own(tmp_path, other):
    found = find_split_series([series(tmp_path, "a"), series(tmp_path, "b", **other)])
    assert (found.joined, found.refused) == ([], {})
    assert len(discover_folder(tmp_path)) == 2


def test_differing_slices_at_one_position_are_refused(tmp_path):
    a, b = series(tmp_path, "a", **FRAME), series(tmp_path, "b", first=3, numbered=7, **FRAME)
    problems = {c["image"]: c.get("problem") for c in discover_folder(tmp_path)}
    assert set(problems) == {a, b}
    assert all("has other slices at positions of slices" in str(p) and "\n" not in str(p) for p in problems.values())


def test_damaged_folders_are_left_to_their_reader(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    (tmp_path / "a" / "000.dcm").write_bytes((tmp_path / "a" / "000.dcm").read_bytes()[:150])
    assert find_split_series([a, b, str(tmp_path / "nowhere")]).joined == []
    assert part_folders(tmp_path) == []


def test_a_missing_slice_between_parts_is_refused(tmp_path):
    series(tmp_path / "ct", "a"), series(tmp_path / "ct", "b", first=7, number=5)
    with pytest.raises(ValueError, match=r"1 slice\(s\) are missing near a/005.dcm"):
        find_series(tmp_path / "ct")


def test_a_cohort_has_one_scan_of_all_parts(tmp_path):
    a, b, c = (series(tmp_path, name, first=6 * k, number=6) for k, name in enumerate("abc"))
    other = series(tmp_path, "other", SeriesInstanceUID="1.2.3.99")
    for name, first in (("1", 0), ("2", 6)):
        series(tmp_path / "patient", name, first, SeriesInstanceUID="1.2.3.5")
    cases = discover_folder(tmp_path)
    assert [c["image"] for c in cases] == [a, other, str(tmp_path / "patient")]
    assert [parts_of(c) for c in cases] == [[b, c], [], []]
    assert not any("problem" in c for c in cases)
    assert [dict(c) for c in find_inputs(str(tmp_path / "patient"))] == [{"image": str(tmp_path / "patient")}]


def test_hash_and_stamp_cover_all_parts(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    case = {"image": a, "parts": b}
    before, counts = scan_hash(case), stamp(a, [b])
    assert counts[0] == stamp(str(tmp_path))[0] == 12
    (Path(b) / "003.dcm").write_bytes(b"other")
    assert scan_hash(case) != before
    assert stamp(a, [b]) != counts


def test_one_part_alone_has_a_remark(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    (case,) = find_inputs(a)
    assert "parts" not in case
    assert f"other slices of its series are in {b}; set input to {tmp_path}" in case["remark"]
    assert part_remarks([series(tmp_path, "other", SeriesInstanceUID="1.2.3.99")]) == {}


def test_images_of_a_data_set_are_whole_series(tmp_path):
    series(tmp_path / "set" / "one", "1"), series(tmp_path / "set" / "one", "2", first=6)
    assert find_case_files(tmp_path / "set", "image").files == {"one": tmp_path / "set" / "one"}
    series(tmp_path / "mixed", "1"), series(tmp_path / "mixed", "2", first=6)
    series(tmp_path / "mixed", "3", SeriesInstanceUID="1.2.3.99")
    found = find_case_files(tmp_path / "mixed", "image")
    assert list(found.files) == ["3"]
    assert all("is a part of the series in" in line for line in found.problems)
    with pytest.raises(InputError, match="is a DICOM series itself"):
        find_case_files(tmp_path / "set" / "one", "image")


def test_results_name_the_folders_of_a_joined_series(tmp_path):
    from fakes import FakeRunner, Threshold, affine_of, ball_scan
    from scripts.inference.pipeline import Pipeline
    from scripts.inference.predict import PatchConfig

    shape = (48, 50, 40)
    data = ball_scan(shape, affine_of(shape, (0.6, 0.8, 2.0), np.eye(3)), [(0, 0, 0)], 9.0).transpose(2, 1, 0)
    data = data + np.random.default_rng(0).integers(-150, -100, data.shape).astype(np.int16)
    write_series(tmp_path / "all", data, **UID)
    number_slices(tmp_path / "all")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for n, file in enumerate(sorted((tmp_path / "all").iterdir())):
        shutil.copy(file, tmp_path / "ab"[n > 19])
    pipeline = Pipeline({"sagittal": [FakeRunner(Threshold())]}, PatchConfig((64, 64)))
    log: list[str] = []
    a, b = (str(tmp_path / name) for name in "ab")
    segment_case(a, tmp_path / "out" / "a", pipeline, Outputs(preview=False), log=log.append, parts=[b], remarks=["of a CD"])
    notes = json.loads((tmp_path / "out" / "cases" / "a.json").read_text(encoding="utf-8"))["notes"]
    assert notes[0] == "of a CD"
    assert any("a (20 files), b (20 files)" in note for note in notes)
    assert any("a (20 files), b (20 files)" in line for line in log)
    segment_case(str(tmp_path / "all"), tmp_path / "out" / "all", pipeline, Outputs(preview=False), log=log.append)
    masks = [(tmp_path / "out" / f"{name}_fracture.nii.gz").read_bytes() for name in ("a", "all")]
    assert masks[0] == masks[1]
    assert read_header(a, parts=[b]).shape == (48, 50, 40)


PLAIN = {"FrameOfReferenceUID": "1.2.9", "numbered": 0}  # no InstanceNumber
ANONYMOUS = {"StudyInstanceUID": None, "FrameOfReferenceUID": None}


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ({}, {"start": 0.5, "numbered": 7}, "InstanceNumber is not in the order"),
        ({}, {"start": 0.5, "numbered": 1}, "InstanceNumber is not in the order"),
        ({}, {"start": 0.3, "numbered": 1}, "InstanceNumber is not in the order"),
        ({}, {"start": 6, "numbered": 1}, "InstanceNumber is not in the order"),  # two patients, one above the other
        ({}, {"start": 6, "numbered": 70}, "their slices do not follow each other in even steps"),
        ({}, {"start": 6.5, "numbered": 7}, "their slices do not follow each other in even steps"),
        ({}, {"first": 6, "SOPInstanceUID": "1.2.3.4"}, "SOPInstanceUIDs repeat"),
        ({"numbered": 0}, {"first": 6, "numbered": 0}, "without InstanceNumber and FrameOfReferenceUID"),
        (ANONYMOUS, {"first": 6, **ANONYMOUS}, "without StudyInstanceUID and FrameOfReferenceUID"),
        (PLAIN, {"start": 0.5, **PLAIN}, "they overlap"),
        (PLAIN, {"start": 7, **PLAIN}, "their slices do not follow each other in even steps"),
    ],
    ids=str,
)
def test_doubtful_parts_are_named_but_not_joined(tmp_path, one, other, why):
    a, b = series(tmp_path, "a", **one), series(tmp_path, "b", **other)
    found = find_split_series([a, b])
    assert (found.joined, found.refused) == ([], {})
    cases = {c["image"]: c for c in discover_folder(tmp_path)}
    assert not any("problem" in c or "parts" in c for c in cases.values())
    for this, that in ((a, b), (b, a)):
        assert f"{this}: has the SeriesInstanceUID of {that}, which is not joined with it ({why}" in cases[this]["remark"]
        assert find_inputs(this)[0]["remark"] == cases[this]["remark"]
    assert part_folders(tmp_path) == []


def test_unnumbered_parts_of_one_frame_are_joined(tmp_path):
    a, b = series(tmp_path, "a", **PLAIN), series(tmp_path, "b", start=6, **PLAIN)
    assert find_split_series([a, b]).joined == [[a, b]]


@pytest.mark.parametrize("downwards", [False, True])
def test_any_distribution_over_folders_is_joined(tmp_path, downwards):
    series(tmp_path, "all", number=12)
    folders = np.random.default_rng(1).permutation([0, 1, 2] * 4)
    for n, (file, k) in enumerate(zip(sorted((tmp_path / "all").iterdir()), folders, strict=True)):
        data = pydicom.dcmread(file)
        data.InstanceNumber = 40 - n if downwards else 7 + n
        (tmp_path / "ct" / str(k)).mkdir(parents=True, exist_ok=True)
        data.save_as(tmp_path / "ct" / str(k) / file.name)
    assert [f.name for f in part_folders(tmp_path / "ct")] == ["0", "1", "2"]
    np.testing.assert_array_equal(read_volume(tmp_path / "ct").get_fdata(), read_volume(tmp_path / "all").get_fdata())


def test_folders_of_scouts_alone_are_no_parts(tmp_path):
    a, b = (series(tmp_path, name, first=6 * k, ImageType="LOCALIZER") for k, name in enumerate("ab"))
    assert find_split_series([a, b]) == split_series.SplitSeries()


def test_each_phase_in_parts_is_joined_with_its_own(tmp_path):
    names = [series(tmp_path, name, number=3, start=3 * (k % 2), numbered=1 + 3 * k) for k, name in enumerate("abcd")]
    found = find_split_series(names)
    assert found.joined == [names[:2], names[2:]]
    assert set(found.apart) == set(names)


def test_a_copy_within_a_part_does_not_hinder_the_join(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    shutil.copy(Path(a) / "003.dcm", Path(a) / "003 copy.dcm")
    assert find_split_series([a, b]).joined == [[a, b]]


def test_a_damaged_part_is_named_at_the_others(tmp_path):
    a, b, c = (series(tmp_path, name, first=3 * k, number=3) for k, name in enumerate("abc"))
    (Path(b) / "001.dcm").write_bytes((Path(b) / "001.dcm").read_bytes()[:150])
    cases = {case["image"]: case for case in discover_folder(tmp_path)}
    assert set(cases) == {a, b, c}
    assert all(f"({b} cannot be read as one series)" in cases[f]["remark"] for f in (a, c))


def test_dicomdir_and_scouts_do_not_hide_a_series(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    directory = pydicom.dcmread(Path(a) / "000.dcm")
    for tag in ("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"):
        del directory[tag]
    for folder in (a, b):
        directory.save_as(Path(folder) / "DICOMDIR")
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2.8"}
    write_slice(Path(a) / "0.dcm", VOLUME[0], [0, 0, 0], **scout)
    assert find_split_series([a, b]).joined == [[a, b]]
    assert find_series(tmp_path).shape == (5, 6, 12)


def test_many_siblings_are_searched_or_the_limit_is_named(tmp_path, monkeypatch):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    for n in range(250):
        (tmp_path / f"empty{n}").mkdir()
    assert f"other slices of its series are in {b}" in find_inputs(a)[0]["remark"]
    monkeypatch.setattr(split_series, "MAX_SIBLINGS", 100)
    assert f"the 252 folders in {tmp_path} were not searched" in find_inputs(a)[0]["remark"]


def test_a_cohort_with_one_uid_is_not_read_for_parts(tmp_path, monkeypatch):
    names = [series(tmp_path, f"{k:02d}", number=2) for k in range(split_series.MAX_PARTS + 1)]
    monkeypatch.setattr(split_series, "read_headers", lambda folder: pytest.fail(f"{folder} was read"))
    assert part_folders(tmp_path) == []
    found = find_split_series(names)
    assert found.joined == []
    assert set(found.apart) == set(names)
    assert "and 47 more, which is not joined with it (more than 50 folders have it)" in found.apart[names[0]]


def test_parts_in_a_datalist_have_remarks(tmp_path):
    a, b = series(tmp_path, "a"), series(tmp_path, "b", first=6)
    (tmp_path / "list.json").write_text(json.dumps({"testing": [{"image": a}, {"image": "b"}]}), encoding="utf-8")
    remarks = [case["remark"] for case in find_inputs(str(tmp_path / "list.json"))]
    assert [f"other slices of its series are in {f}; " in text for f, text in zip((b, a), remarks, strict=True)] == [True, True]


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="needs a file that never ends")
def test_files_without_a_size_are_not_opened():
    assert not is_dicom(Path("/proc/kmsg"))
    assert part_remarks(["/proc", "/dev"]) == {}


def test_siblings_of_a_folder_without_a_series_are_not_searched(tmp_path, monkeypatch):
    seen: list[Path] = []
    known = split_series._folder_key
    monkeypatch.setattr(split_series, "_folder_key", lambda folder: seen.append(folder) or known(folder))
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    assert part_remarks([tmp_path / "a"]) == {}
    assert seen == [tmp_path / "a"]
