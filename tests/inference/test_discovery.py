# SPDX-License-Identifier: Apache-2.0
"""Everything of a folder or datalist is a scan, a scan with a problem, or named with the reason why it is not used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series
from fakes import save
from scripts.core.errors import InputError
from scripts.inference.discovery import MAX_NAMED, Scans, discover_datalist, is_series, printable
from scripts.inference.inputs import find_inputs

VOXELS = np.zeros((3, 3, 3), np.int16)


def scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, VOXELS, np.eye(4))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    scan(tmp_path / "in" / "good.nii.gz")
    return tmp_path / "in"


def images(scans: Scans) -> list[str]:
    return [os.path.basename(c["image"]) for c in scans if "problem" not in c]


def reason(scans: Scans, name: str) -> str:
    (text,) = [r for path, r in scans.unused if os.path.basename(path) == name]
    return text


def problem(scans: Scans, name: str) -> str:
    (text,) = [c["problem"] for c in scans if os.path.basename(c["image"]) == name]
    return text


def test_every_entry_is_used_or_has_a_reason(folder):
    scan(folder / "SCAN.nii.gz").rename(folder / "SCAN.NII.GZ")
    for name in ("x.hdr", "x.img", "notes.txt", ".hidden"):
        (folder / name).write_bytes(b"x")
    scan(folder / "deep" / "er" / "b.nii")
    write_series(folder / "nested" / "series", VOLUME)
    write_series(folder / "series", VOLUME)
    (folder / "series" / "000.dcm").rename(folder / "loose.dcm")
    (folder / "nothing").mkdir()
    (folder / "gone.nii.gz").symlink_to("/nowhere.nii.gz")
    scans = find_inputs(str(folder))
    assert images(scans) == ["SCAN.NII.GZ", "good.nii.gz", "series"]
    assert "/nowhere.nii.gz" in problem(scans, "gone.nii.gz")
    assert "convert" in reason(scans, "x.hdr")
    assert "convert" in reason(scans, "x.img")
    assert reason(scans, "deep").endswith("set input to their folder: deep/er")
    assert reason(scans, "nested").endswith("set input to their folder: nested")
    assert "DICOM file outside" in reason(scans, "loose.dcm")
    assert "no scan" in reason(scans, "notes.txt")
    assert "without a scan" in reason(scans, "nothing")
    assert "hidden" in reason(scans, ".hidden")
    assert len(scans) + len(scans.unused) == len(os.listdir(folder))


VOLUME = np.zeros((4, 5, 6), np.int16)


def test_twins_of_macos_do_not_hide_a_series(folder):
    for file in write_series(folder / "series", VOLUME):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    assert images(find_inputs(str(folder))) == ["good.nii.gz", "series"]
    assert images(find_inputs(str(folder / "series"))) == ["series"]


def test_voxels_of_an_mhd_header_are_no_separate_file(folder):
    (folder / "a.mhd").write_text("NDims = 3")
    (folder / "a.raw").write_bytes(b"x")
    (folder / "b.raw").write_bytes(b"x")
    assert [os.path.basename(path) for path, _ in find_inputs(str(folder)).unused] == ["b.raw"]


def test_names_that_are_no_utf8_are_escaped(folder):
    scan(folder / "a.nii.gz").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.nii.gz"))
    scans = find_inputs(str(folder))
    assert images(scans) == ["good.nii.gz"]
    assert "rename" in problem(scans, r"caf\xe9.nii.gz")
    assert printable(folder) == str(folder)


@pytest.mark.parametrize(("name", "failed"), [("patient", True), ("lost+found", False)])
def test_folder_that_cannot_be_opened(folder, monkeypatch, name, failed):
    (folder / name).mkdir()
    listed = Path.iterdir

    def iterdir(path: Path):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    scans = find_inputs(str(folder))
    assert images(scans) == ["good.nii.gz"]
    text = problem(scans, name) if failed else reason(scans, name)
    assert "Permission denied" in text
    with pytest.raises(InputError, match="Permission denied"):
        find_inputs(str(folder / name))


@pytest.mark.parametrize("item", [{}, {"image": 5}, {"image": "good.nii.gz", "vertebrae": 3}])
def test_unusable_item_of_a_datalist_is_one_problem(folder, item):
    file = folder / "datalist.json"
    file.write_text(json.dumps({"testing": [{"image": "good.nii.gz"}, item], "training": [{"image": "x.nii.gz"}]}))
    scans = discover_datalist(file, "testing")
    assert images(scans) == ["good.nii.gz"]
    assert "must be the path" in problem(scans, "datalist.json: testing[1]")
    ((path, text),) = scans.unused
    assert "training (1 case(s))" in path
    assert "set section" in text


def test_scans_that_a_datalist_does_not_name(folder):
    scan(folder / "other.nii.gz")
    (folder / "datalist.json").write_text(json.dumps({"testing": [{"image": "good.nii.gz"}]}))
    assert "not named" in reason(find_inputs(str(folder)), "other.nii.gz")


def test_lines_name_a_few_of_many(folder):
    for n in range(MAX_NAMED + 3):
        (folder / f"{n}.txt").write_text("x")
    (line,) = find_inputs(str(folder)).unused_lines()
    assert line.endswith("and 3 more: no scan")


def test_a_file_is_no_series(folder):
    assert not is_series(folder / "good.nii.gz")
